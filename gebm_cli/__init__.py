"""gebm: generalized energy-based models (Arbel, Zhou and Gretton, ICLR 2021) from the command line."""

__version__ = "0.1.0"
