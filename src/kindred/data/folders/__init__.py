"""What lies in a folder of files, one an example: splits, classes, labels. Imports no torch."""
