"""What an export to ONNX needs; light, so that it is asked for before a network is loaded."""

from types import ModuleType


def packages() -> tuple[ModuleType, ModuleType]:
    """onnx and onnxruntime, or an ImportError that says how to get all that is needed."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch uses it)
    except ImportError as error:
        raise ImportError(
            f'{error.name} is missing. Install what ONNX needs: `pip install onnx onnxruntime '
            'onnxscript`, the extra mmcoke[onnx].'
        ) from error
    return onnx, onnxruntime
