"""Deep hashing: base class of deep methods, SGD, losses, networks and backbones."""
