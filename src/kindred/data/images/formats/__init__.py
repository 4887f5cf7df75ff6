"""Image files -> 8 bits a channel, one or many. Imports no torch, so that a forked process inherits no thread pool."""
