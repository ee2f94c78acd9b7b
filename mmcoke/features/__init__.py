"""Frozen networks and the features of images: of a folder, of a data set, on disk."""
