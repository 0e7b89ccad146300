"""The model host: stage code and model runtimes, as profiling, serving and the measuring of accuracy use them."""
