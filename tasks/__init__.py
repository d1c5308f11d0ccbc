"""The steps of maskline, one module each, and the libraries under them."""
