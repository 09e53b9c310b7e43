"""Writes a fitted model as one ONNX file, encoders included, with a model card beside it.

The converter is our own: no maintained one is right for scikit-learn's boosting and forests. It needs the
packages of the extra `onnx`, which `convert` imports when they are used.
"""
