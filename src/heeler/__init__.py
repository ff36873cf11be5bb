"""heeler: a folder of labelled photos in, an image classifier you can trust out.

Importing this package does not import torch; the public names load what they need when they are first used.
"""

__version__ = "0.1.0.dev0"
