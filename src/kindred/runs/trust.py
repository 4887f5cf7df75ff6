"""What a run directory, or a file, may have built."""

# The classes that a run directory may name. A list of packages would not do: torch alone holds functions that run a shell.
TRUSTED = frozenset(
    {
        "kindred.data.datamodule.MultiViewDataModule",
        "kindred.data.images.datamodule.ImageDataModule",
        "kindred.data.images.folder.ImageFolder",
        "kindred.data.images.embedded.Digits",
        "kindred.data.images.embedded.Photos",
        *(
            f"kindred.data.images.torchvision_sources.{n}"
            for n in ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST", "STL10", "SVHN")
        ),
        "kindred.data.images.views.MultiView",
        "kindred.data.images.views.View",
        "kindred.optimisers.lars.LARS",
        "kindred.encoders.convnet.ConvNet",
        "kindred.encoders.resnet.resnet",
        "kindred.models.mocov2.MoCoV2",
        "kindred.models.nnclr.NNCLR",
        "kindred.models.simclr.SimCLR",
        "kindred.models.supcon.SupCon",
        "kindred.temperature.Cosine",
        "kindred.temperature.Learnable",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
    }
)
