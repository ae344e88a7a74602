"""Deep hashing: the contract of a deep method, SGD, losses, networks and their backbones."""
