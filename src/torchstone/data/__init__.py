"""Data sets that need no network: embedded, generated, or read from local files.

Each module makes one kind: `digits`, `mnist1d`, `two_moons` and `regression` give a `split.DataSplit`; `image_files`
reads MNIST, Fashion-MNIST and CIFAR-10 where their files are at hand; `gaussians`, `thresholds` and `two_moons` hold
laws on which the true risk is known (`law.BinaryLaw`); `label_noise` plants wrong labels.
"""
