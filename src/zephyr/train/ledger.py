"""Bytes that live tensors hold, by kind, and what collective calls send, seen from under torch's dispatcher."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# CUDA's allocator hands out multiples of so many bytes.
ALLOCATION = 512
# Kinds by the operation that writes to a tensor, which FSDP2 allocates before: argument number, its kind.
_WRITTEN: dict[str, tuple[int | str, str]] = {
    "c10d._allgather_base_": (0, "gathered"),
    "fsdp.split_with_sizes_copy": ("out", "gathered"),
    "fsdp.chunk_cat": ("out", "reduced"),
    "c10d._reduce_scatter_base_": (0, "reduced"),
}


class Traffic(NamedTuple):
    """Calls of a collective operation, and the bytes of the whole tensors that they gathered or reduced."""

    calls: int
    num_bytes: int


@dataclass
class _Held:
    num_bytes: int
    kind: str


class MemoryLedger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, the bytes of living tensors are counted; ``hold`` names the kind of those that exist already.

    Kinds: weights, gradients, optimizer, reference; gathered (weights of all ranks, and copies in another dtype), whole
    gradients and reduced (before and while FSDP2 adds them up), activations (kept by the forward pass), loss (logits),
    backward (what the backward pass makes).
    """

    supports_higher_order_operators = True

    def __init__(self, *, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = ""
        self.traffic: dict[str, Traffic] = {}
        self.flops = 0.0  # of matrix products; attention's are counted by who knows the forest
        self._vocab_size = vocab_size
        self._held: dict[int, _Held] = {}
        self._live = self._peak = 0
        self._at_peak: list[tuple[_Held, int]] | None = None
        self._peak_phase = ""

    def start_counting(self) -> None:
        """Forget peak, traffic and operations so far."""
        self.traffic.clear()
        self.flops = 0.0
        self._peak, self._at_peak = 0, None

    def at_peak(self) -> tuple[dict[str, int], str]:
        """Bytes by kind when most were held, and the phase of that."""
        self._keep_peak()
        kinds: Counter[str] = Counter()
        for held, num_bytes in self._at_peak or ():
            kinds[held.kind] += num_bytes
        return {kind: size for kind, size in kinds.most_common() if size}, self._peak_phase

    def hold(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count these tensors, and name their kind."""
        for tensor in tensors:
            self._track(tensor, kind).kind = kind

    def __enter__(self) -> Self:
        # FSDP2 frees and takes the memory of gathered weights by resizing storages, which no dispatcher sees.
        resize, ledger = torch.UntypedStorage.resize_, self

        def resized(storage: torch.UntypedStorage, size: int) -> object:
            found = resize(storage, size)
            held = ledger._held.get(_address(storage))
            if held is not None:
                held.kind = "gathered"
                ledger._set(held, size)
            return found

        self._resize: Callable[..., object] = resize
        torch.UntypedStorage.resize_ = resized  # type: ignore[assignment,method-assign]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(  # the interface of torch
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A sharded tensor's own dispatch is left out: it makes whole tensors to learn about shapes.
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.").rpartition(".")[0]
        if name == "_local_scalar_dense":
            return 0.5 if args[0].is_floating_point() else 1  # no number is known; any one will do
        found = func(*args, **kwargs)
        kind = self._kind_of(name, args)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                loss = kind == "activations" and tensor.ndim == 2 and tensor.shape[1] == self._vocab_size
                self._track(tensor, "loss" if loss else kind)
        self._see_sharding(name, args, kwargs)
        if name == "_grouped_mm":  # of experts; torch does not count it
            self.flops += 2.0 * args[0].numel() * found.shape[-1]
        elif func.overloadpacket in flop_registry and not name.startswith("torch_attn."):
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=found)
        return found

    def _kind_of(self, name: str, args: Sequence[Any]) -> str:
        if self.phase == "update":
            return "optimizer"
        if name == "_to_copy" and self._kind_held(args[0]) == "weights":
            return "gathered"
        in_backward = torch._C._current_graph_task_id() != -1  # noqa: SLF001  # torch has no public name for it
        return "backward" if in_backward else "activations"

    def _see_sharding(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Name the kinds of FSDP2's buffers, and count what it sends."""
        if name in _WRITTEN:
            place, kind = _WRITTEN[name]
            written = kwargs[place] if isinstance(place, str) else args[place]
            self.hold(kind, tree_leaves(written))
        if name == "fsdp.chunk_cat":
            self.hold("whole gradients", tree_leaves(args[0]))
        if name.startswith(("c10d.", "_c10d_functional.")):
            whole = max((one.nbytes for one in tree_leaves(args) if isinstance(one, Tensor)), default=0)
            before = self.traffic.get(name, Traffic(0, 0))
            self.traffic[name] = Traffic(before.calls + 1, before.num_bytes + whole)

    def _kind_held(self, tensor: Tensor) -> str | None:
        held = self._held.get(_address(tensor.untyped_storage()))
        return None if held is None else held.kind

    def _track(self, tensor: Tensor, kind: str) -> _Held:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        address = _address(storage)
        held = self._held.get(address)
        if held is None:
            held = self._held[address] = _Held(0, kind)
            self._set(held, storage.nbytes())
            weakref.finalize(storage, self._forget, address)
        return held

    def _forget(self, key: int) -> None:
        self._set(self._held.pop(key), 0)

    def _set(self, held: _Held, num_bytes: int) -> None:
        rounded = -(-num_bytes // ALLOCATION) * ALLOCATION
        if rounded < held.num_bytes:
            self._keep_peak()
        self._live += rounded - held.num_bytes
        held.num_bytes = rounded

    def _keep_peak(self) -> None:
        """Note what is held if it is more than ever; called before it becomes less."""
        if self._live > self._peak:
            self._peak, self._peak_phase = self._live, self.phase
            self._at_peak = [(held, held.num_bytes) for held in self._held.values() if held.num_bytes]


def _address(storage: torch.UntypedStorage) -> int:
    address: int = storage._cdata  # noqa: SLF001  # tensors without data have no other
    return address
