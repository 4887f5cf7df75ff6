"""What the docstrings of installed libraries are about: a topic is a list of sub-packages."""

# Sub-packages of libraries that Kindred's own dependencies bring: what else is installed changes nothing.
TOPICS: dict[str, tuple[str, ...]] = {
    "arrays": ("numpy.lib", "numpy._core", "numpy.ma"),
    "clustering": ("sklearn.cluster", "scipy.cluster", "sklearn.mixture", "torchmetrics.clustering"),
    "combinatorics": ("sympy.combinatorics", "sympy.discrete"),
    "compilers": ("torch.fx", "torch.jit", "torch.export", "torch.compiler", "torch.onnx"),
    "distributed computing": ("torch.distributed",),
    "equation solving": ("sympy.solvers", "sympy.series"),
    "geometry": ("scipy.spatial", "sympy.geometry", "sympy.vector", "sympy.diffgeom"),
    "graphs": ("networkx.algorithms", "networkx.generators", "networkx.classes"),
    "image processing": (
        *("skimage.filters", "skimage.morphology", "skimage.color", "skimage.transform", "skimage.restoration"),
        *("skimage.segmentation", "skimage.exposure", "skimage.draw", "scipy.ndimage", "torchvision.transforms"),
    ),
    "integration": ("scipy.integrate", "sympy.integrals"),
    "linear algebra": ("numpy.linalg", "scipy.linalg", "sympy.matrices", "networkx.linalg", "torch.linalg"),
    "logic": ("sympy.logic", "sympy.assumptions", "sympy.sets"),
    "metrics": ("sklearn.metrics", "torchmetrics.functional", "torchmetrics.classification", "torchmetrics.regression"),
    "neural layers": ("torch.nn",),
    "number theory": ("sympy.ntheory", "sympy.crypto"),
    "optimisation": ("scipy.optimize", "torch.optim"),
    "physics": ("sympy.physics",),
    "plotting": ("matplotlib", "sympy.plotting", "networkx.drawing"),
    "polynomials": ("sympy.polys", "numpy.polynomial"),
    "quantization": ("torch.ao",),
    "signal processing": ("scipy.signal", "scipy.fft", "scipy.fftpack", "numpy.fft", "torch.signal"),
    "special functions": ("scipy.special", "sympy.functions"),
    "statistics": ("scipy.stats", "sympy.stats", "torch.distributions"),
    "supervised learning": (
        *("sklearn.linear_model", "sklearn.ensemble", "sklearn.svm", "sklearn.tree", "sklearn.neighbors"),
        *("sklearn.gaussian_process", "sklearn.neural_network"),
    ),
}
