"""The native CPU backend. Importing it loads nothing; the library is loaded when a call first asks for it."""

from pgconv.backends.cpp.backend import BACKEND

__all__ = ["BACKEND"]
