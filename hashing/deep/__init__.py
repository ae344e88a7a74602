"""Deep hashing.

- `method`: the base class of deep methods, from hyper-parameters to a fitted hash function.
- `contract`: the types that methods and training exchange. `losses`: the terms of objectives; `regularizers`: terms
  that the user adds; `centres`: codes of classes.
- `architectures`: names of networks and checks of shapes, without torch. `networks`: a backbone with a hash layer;
  `backbones`: networks for vectors, images and texts; `weights`: pretrained parameters from files; `fitted`: the
  networks of fitted functions.
- `sgd`: the training loop of a worker. `collectives`: what workers exchange. `batches`: the order of rows. `stored`:
  rows read once and mapped into memory. `recompute`: activation checkpointing.
"""
