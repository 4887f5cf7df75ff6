"""What lies in a folder of images: splits, files, labels. Imports no torch."""
