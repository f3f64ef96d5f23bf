"""How MLflow loads our models: `mlflow.pyfunc.load_model` imports this module, as the file ``MLmodel`` says.

Nothing is unpickled: weights are safetensors, and the network is built from its recipe. Modules of the user's that a
model is built with are imported only where they are allowed::

    mlflow.pyfunc.load_model("models:/name@champion", model_config={"imports": ["my_models"]})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 4096  # predicted at a time


class Predictor:
    """A trained model from NumPy to NumPy.

    Args:
        folder: the model's.
        imports: modules of the user's that it may be built with.
        device: where it computes.
    """

    def __init__(self, folder: Path, imports: Sequence[str] = (), device: str = "cpu") -> None:
        from accelerator.runtime.model_manifest import read_manifest
        from accelerator.runtime.trained import load_model

        self.manifest = read_manifest(folder)
        self.model, self.device = load_model(folder, device, imports=imports), device

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """Inputs as the training data gave them, (B, …), to predictions in the targets' own units, (B, …)."""
        import numpy as np
        import torch

        dtype = self.manifest.inputs["dtype"]
        inputs = torch.from_numpy(np.array(data, dtype=dtype))  # a copy: MLflow's may be read-only
        with torch.inference_mode():
            parts = [self.model(part.to(self.device)).cpu() for part in inputs.split(ROWS)]
        predictions = torch.cat(parts)
        return (predictions.float() if predictions.dtype is torch.bfloat16 else predictions).numpy()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Predictor:
    """What MLflow calls."""
    import yaml

    folder = Path(path)
    stored = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"].get("config") or {}
    if stored.get("imports"):
        raise CheckpointError(
            f"{folder / 'MLmodel'} itself allows modules to be imported, {', '.join(stored['imports'])}, which only "
            "who loads it may: it was not written by this platform, and is refused"
        )
    return Predictor(folder, (model_config or {}).get("imports", ()))
