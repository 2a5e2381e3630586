"""A shadow: a second tree of modules over the base's own weights, with an adapter in it as PEFT puts it.

It serves what no slot holds. Its weights are the base's, not copies; its modules are its own, so PEFT may
replace and rewrite them and the base feels nothing. It runs in the same packed forward and on the same rows
of keys and values, as a group of its own.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from actors.lm.extras import base_weight
from actors.lm.header import HEAD_NBYTES, AdapterError, parse_header
from actors.lm.slots import SlotLinear

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from peft import PeftModel
    from torch import Tensor

    from actors.lm.image import ShadowImage
    from actors.lm.model import Model

#: What a safetensors file calls the dtypes of an adapter.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}  # fmt: skip
#: What serves an adapter that needs weights as they are stored.
DENSE = "set kernels: torch for its base"
#: What a module holds in containers of its own, to be copied with it.
CONTAINERS = (dict, list, set)
NAMED = 3
#: What PEFT raises when config, weights and base do not fit each other.
UNLOADABLE = (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError, NotImplementedError)


@dataclass(slots=True)
class Shadow:
    """An adapter as PEFT serves it.

    `net` takes the place of `Model.net` in a forward; `nbytes` counts the tensors that are not the base's.
    """

    net: nn.Module
    nbytes: int

    @classmethod
    def load(cls, image: ShadowImage, model: Model) -> Shadow:
        """Build the tree; may run beside forwards of the base, which it does not touch. Takes 0.1 to 2 s.

        Raises AdapterError ADP039 for an adapter that PEFT cannot put on this base as its config says, ADP041
        for one that needs weights which a kernel has packed; a forward raises that too, the first of all.
        """
        shared = {part.data_ptr() for part in (*model.net.parameters(), *model.net.buffers())}
        memo: dict[int, Any] = {}
        net = _twin(model.net, memo)
        net.config = copy.deepcopy(model.net.config)
        fields = json.loads(image.config)
        if fields.get("bias", "none") != "none":
            _own_biases(net)
        _lend(net)
        weights = _tensors(image.weights)
        hint = DENSE if any(map(_packed, net.modules())) else ""
        try:
            peft, missing = _wrap(net, fields, _without_repeats(weights, net, fields))
        except UNLOADABLE as error:
            told = f"PEFT cannot put it on {type(net).__name__}: {error!r}"
            raise AdapterError("ADP039", f"{image.why} adapter {image.digest[:12]}: {told}", hint) from error
        if missing:
            told = f"{len(missing)} of its tensors do not fit its config: {missing[:NAMED]}"
            raise AdapterError("ADP039", f"{image.why} adapter {image.digest[:12]}: {told}", hint)
        tree = peft.get_base_model()
        _seal(tree, model.dtype, rewritten=bool(fields.get("kasa_config")))
        tree.to(model.device).train(mode=False).requires_grad_(requires_grad=False)
        own = {part.data_ptr(): part.nbytes for part in (*tree.parameters(), *tree.buffers())}
        return cls(tree, sum(nbytes for place, nbytes in own.items() if place not in shared))

    def release(self) -> None:
        """Let go of every tensor at once, whatever still refers to the modules. No forward may run then."""
        for module in list(self.net.modules()):
            module._parameters.clear()  # noqa: SLF001 -- nn.Module has no word for letting go
            module._buffers.clear()  # noqa: SLF001
            module._modules.clear()  # noqa: SLF001


def _twin(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy the tree below `module` without its slots: modules and parameters are new, their memory is not.

    A parameter is a new object over the same memory: what PEFT assigns to its `data` stays in the twin.
    """
    if isinstance(module, SlotLinear):
        return _twin(module.linear, memo)
    if id(module) not in memo:
        twin = memo[id(module)] = copy.copy(module)
        state = vars(twin)
        for name, value in vars(module).items():
            if isinstance(value, CONTAINERS):
                state[name] = copy.copy(value)
        for name, parameter in module._parameters.items():  # noqa: SLF001 -- those of this module alone
            if parameter is not None:
                twin._parameters[name] = memo.setdefault(id(parameter), _view(parameter))  # noqa: SLF001
        for name, child in module._modules.items():  # noqa: SLF001
            if child is not None:
                twin._modules[name] = _twin(child, memo)  # noqa: SLF001
    return memo[id(module)]  # type: ignore[no-any-return]


def _tensors(data: NDArray[np.uint8]) -> dict[str, Tensor]:
    """Return copies of the tensors of a safetensors file, one by one: nothing holds the interpreter long."""
    header = parse_header(data[:HEAD_NBYTES].tobytes(), data.nbytes, "weights")
    return {
        key: torch.from_numpy(data[each.start : each.stop].copy()).view(DTYPES[each.dtype]).view(each.shape)
        for key, each in header.tensors.items()
    }


def _lend(net: nn.Module) -> None:
    """Have a packed weight be unpacked once for all the looks that PEFT takes at it, one after the other."""
    last: list[tuple[nn.Module, Tensor]] = []

    def lent(module: nn.Module) -> Tensor:
        if not last or last[0][0] is not module:
            last[:] = [(module, vars(type(module))["kind"].weight.fget(module))]
        return last[0][1]

    kinds = {type(module) for module in net.modules() if _packed(module)}
    lenders = {kind: type(kind.__name__, (kind,), {"weight": property(lent), "kind": kind}) for kind in kinds}
    for module in net.modules():
        if type(module) in lenders:
            module.__class__ = lenders[type(module)]


def _view(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)


def _own_biases(net: nn.Module) -> None:
    """Give the twin biases of its own: PEFT copies the trained ones over them."""
    for module in net.modules():
        bias = module._parameters.get("bias")  # noqa: SLF001
        if bias is not None:
            module._parameters["bias"] = nn.Parameter(bias.detach().clone(), requires_grad=False)  # noqa: SLF001


def _without_repeats(
    weights: dict[str, Tensor], net: nn.Module, fields: Mapping[str, object]
) -> dict[str, Tensor]:
    """Leave out copies of base weights, which are equal by the check at `prepare`: PEFT would write them."""
    names = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    biased = fields.get("bias", "none") != "none"
    return {
        key: tensor
        for key, tensor in weights.items()
        if ".base_layer." not in key or base_weight(key) not in names or (biased and key.endswith(".bias"))
    }


def _wrap(net: nn.Module, fields: dict[str, Any], weights: dict[str, Tensor]) -> tuple[PeftModel, list[str]]:
    """Have PEFT put the adapter into `net`; return what it made and the names that do not fit."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING

    kind = peft.PeftType(fields.get("peft_type", "LORA"))
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](**{**fields, "inference_mode": True})
    with warnings.catch_warnings():
        # They are advice to those who train; what matters here is checked below.
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(net, config)
        result: Any = peft.set_peft_model_state_dict(made, weights)
    return made, [
        *result.unexpected_keys,
        *_unfilled(made, PEFT_TYPE_TO_PREFIX_MAPPING[kind], result.missing_keys),
    ]


def _unfilled(made: PeftModel, prefix: str, missing: list[str]) -> list[str]:
    """Return the adapter's own parameters that no tensor has filled, under any of their names."""
    named = list(made.named_parameters(remove_duplicate=False))
    without = set(missing)
    filled = {id(parameter) for name, parameter in named if name not in without}
    return [
        name
        for name, parameter in named
        if f".{prefix}" in name and ".default" in name and name in without and id(parameter) not in filled
    ]


def _packed(module: nn.Module) -> bool:
    """Tell whether a kernel holds the weight of this Linear, in an order of its own."""
    return isinstance(module, nn.Linear) and "weight" not in module._parameters  # noqa: SLF001


def _seal(tree: nn.Module, dtype: torch.dtype, *, rewritten: bool) -> None:
    """Have whoever reads a packed weight in a forward be told, instead of unpacking it at every step.

    PEFT's layers that only call the Linear below them run on packed weights as on others. Raises AdapterError
    ADP041 where packed weights are `rewritten`, or rows of a table that is kept in fewer bits than `dtype`.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in tree.modules():
        if _packed(module):
            if rewritten:
                _refuse(module)
            module.__class__ = _sealed(vars(type(module)).get("kind", type(module)))
        elif isinstance(module, TrainableTokensLayer):
            table: Any = module.get_base_layer()
            if table.weight.dtype != dtype:
                _refuse(module)


@lru_cache
def _sealed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"weight": property(_refuse)})


def _refuse(module: nn.Module) -> Tensor:
    told = f"this sort of adapter needs the weight of a {type(module).__name__}, which is not kept as stored"
    raise AdapterError("ADP041", told, DENSE)
