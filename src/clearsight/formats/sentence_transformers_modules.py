"""The modules of a sentence-transformers folder: modules.json and the files of each.

Legend of shapes: D width in, E width out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from clearsight.formats.sentence_transformers_repair import JOINT, Heads, Layers
from clearsight.types import Role

ROUTES: Mapping[Role, str] = {"query": "query", "candidate": "document"}
"""Our roles in the words of sentence-transformers."""

REMOTE_FILE = "clearsight_modules.py"
"""The code of a folder that is not stock."""


class Modules:
    """modules.json and the modules' own files, as they are added.

    Type names are the older ones (`sentence_transformers.models.*`), which other servers know too.
    """

    def __init__(self, *, remote: bool) -> None:
        self.remote = remote
        self.modules: list[dict[str, Any]] = []
        self.files: dict[str, Any] = {}
        self.tensors: dict[str, dict[str, Any]] = {}

    def add(self, name: str, kind: str, files: Mapping[str, Any], *, ours: bool = False) -> str:
        place = len(self.modules)
        path = f"{place}_{name}" if name else ""
        ours = ours or (self.remote and not name)
        self.modules.append(
            {"idx": place, "name": str(place), "path": path, "type": _ours(kind) if ours else _type(kind)}
        )
        self.files |= {f"{path}/{file}".lstrip("/"): value for file, value in files.items()}
        return path

    def heads(self, heads: Heads) -> None:
        """The layers of the repair and the last norm."""
        if heads.by == JOINT:
            for name, kind, config, weights in _steps(heads.layers[JOINT]):
                path = self.add(name, kind, {"config.json": config} if config else {})
                self.tensors |= {path: weights} if weights else {}
            return
        if heads.by == "modality":
            self._by_modality(heads)
            return
        path = f"{len(self.modules)}_Router"
        types: dict[str, str] = {}
        structure: dict[str, list[str]] = {}
        for role, route in ROUTES.items():
            structure[route] = []
            for place, (name, kind, config, weights) in enumerate(_steps(heads.layers[role])):
                key = f"{route}_{place}_{name}"
                types[key], structure[route] = _type(kind), [*structure[route], key]
                if config:
                    self.files[f"{path}/{key}/config.json"] = config
                self.tensors |= {f"{path}/{key}": weights} if weights else {}
        parameters = {"default_route": ROUTES["candidate"], "allow_empty_key": True, "route_mappings": {}}
        router = {"types": types, "structure": structure, "parameters": parameters}
        self.add("Router", "Router", {"router_config.json": router})

    def _by_modality(self, heads: Heads) -> None:
        """One module of ours that holds the layers of every modality, and takes the last norm too."""
        structure: dict[str, list[dict[str, Any]]] = {}
        tensors: dict[str, Any] = {}
        for modality, layers in heads.layers.items():
            structure[modality] = []
            for place, layer in enumerate(layers):
                key = f"{modality.replace('+', '_')}_{place}"
                matrix_DE, offset_E = layer.affine.matrix_DE, layer.affine.offset_E
                tensors |= {f"heads.{key}.weight": matrix_DE.T, f"heads.{key}.bias": offset_E}
                width, out = matrix_DE.shape
                structure[modality].append(
                    {"name": key, "normalize": layer.normalize, "in_features": width, "out_features": out}
                )
        config = {"config.json": {"structure": structure}}
        self.tensors[self.add("ModalityHeads", "ModalityHeads", config, ours=True)] = tensors


Step: TypeAlias = "tuple[str, str, dict[str, Any], dict[str, Any]]"


def _steps(layers: Layers) -> list[Step]:
    """Name, kind, settings and weights of each stock module."""
    norm: Step = ("Normalize", "Normalize", {}, {})
    steps: list[Step] = []
    for layer in layers:
        matrix_DE, offset_E = layer.affine.matrix_DE, layer.affine.offset_E
        config = {
            "in_features": matrix_DE.shape[0],
            "out_features": matrix_DE.shape[1],
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        steps += [norm] if layer.normalize else []
        steps.append(("Dense", "Dense", config, {"linear.weight": matrix_DE.T, "linear.bias": offset_E}))
    return [*steps, norm]


def _type(kind: str) -> str:
    return f"sentence_transformers.models.{kind}"


def _ours(kind: str) -> str:
    return f"{REMOTE_FILE.removesuffix('.py')}.{kind}"
