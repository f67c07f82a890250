"""The main job on real data: a G-CNN and a Partial G-CNN tell a handwritten 6 from the same 6 turned or mirrored.

Run ``python -m pgconv.demo --help``. Needs the ``demo`` extra (scikit-learn, matplotlib, tqdm).
"""
