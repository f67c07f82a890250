"""Benchmarks: ``python -m benchmarks --help``.

``cases`` says what is measured, ``baselines`` how others do it, ``implementations`` puts both under one signature, ``gate`` refuses
to time what is wrong, ``timing``, ``memory`` and ``machine`` measure, ``report`` prints, stores and plots.
"""
