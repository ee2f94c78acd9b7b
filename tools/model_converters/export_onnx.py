"""Write a backbone with its pooling as an ONNX file: from images to features, without PyTorch.

The file takes uint8 images in RGB, (n, H, W, 3), and normalizes them itself; its metadata say how
to resize. Before it gets its name, onnxruntime runs it, and its features are compared with those of
PyTorch.
"""

from mmcoke.cli.commands.export import onnx
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(onnx, __doc__)
