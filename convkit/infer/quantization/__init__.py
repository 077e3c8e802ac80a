"""Quantisation: networks on bytes.

`quantize` measures a float network on sample data (`calibrate`), writes down what is to be
bytes as conversions in its graph (`insert`), and makes quantised operations of what lies
between conversions (`fuse`), which is also how quantised ONNX models are read.
"""
