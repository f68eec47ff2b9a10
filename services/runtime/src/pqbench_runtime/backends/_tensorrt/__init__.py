"""What the backends TensorRT and TensorRT for RTX share.

Each library has Python bindings of its own, with one API: `trt` is the bindings' module wherever it is an argument.
"""
