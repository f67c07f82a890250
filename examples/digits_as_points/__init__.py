"""Handwritten digits as point sets, turned by any angle: an SE(2) network against one of translations only.

``data`` makes and turns the points, ``model`` is the network, ``train`` fits and evaluates, ``report`` plots, ``__main__`` is the
command line.
"""
