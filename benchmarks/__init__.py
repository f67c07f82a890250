"""Benchmarks: ``python -m benchmarks --help``.

``group_conv2d`` and ``point_conv`` say what is measured and how others do it, each a ``suite.Suite``; the ``engine`` runs one:
``implementations`` puts pgconv and others under one signature, ``gate`` refuses to time what is wrong, ``timing``, ``memory`` and
``machine`` measure, ``report`` prints and stores. ``compare`` sets one checkout, or one stored result, against another;
``overhead`` measures what is left of calls without arithmetic; ``plot`` draws stored results.
"""
