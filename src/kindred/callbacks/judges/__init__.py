"""Those that judge the representation at an evaluation, from the features that one of them keeps."""
