"""Benchmarks: ``python -m benchmarks --help``.

``group_conv2d`` and ``point_conv`` say what is measured and how others do it, each a ``suite.Suite``; the ``engine`` runs one:
``implementations`` puts pgconv and others under one signature, ``gate`` refuses to time what is wrong, ``timing``, ``memory`` and
``machine`` measure, ``report`` prints, stores and plots.
"""
