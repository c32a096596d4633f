"""Several processes that train one policy: who this one is, and its model, whole (DDP) or in parts (FSDP2).

Started by `torchrun … -m -- ptdpo_cli train`. Every process reads the same artifacts and updates on its own share of a
step; sums are divided by counts over all of them, so that the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from ptdpo_cli import signals
from ptdpo_cli.errors import PtdpoError, Terminated, UsageError
from ptdpo_cli.models.load import Policy
from ptdpo_cli.models.support import TESTED

_STOP_TIMEOUT_S = 60.0
_control = None  # a gloo group for small talk, beside the group that moves gradients


@dataclass(frozen=True)
class Ranks:
    """This process among its peers; with `world` 1, the ordinary case, nothing here talks to anybody."""

    rank: int = 0
    world: int = 1
    timeout_s: float = 1800.0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value, *, doing: str) -> list:
        """The values of all ranks, in their order.

        Errors: Terminated when a peer has called `stop` instead; PtdpoError that names the ranks that did not come.
        """
        if self.world == 1:
            return [value]
        with signals.held():  # cut in two, this exchange would pair with the peers' next one
            told = self._exchange((False, value), doing, self.timeout_s)
            if any(is_stopping for is_stopping, _ in told):
                signals.forget()
                raise Terminated(is_agreed=True)
        return [value for _, value in told]

    def wait(self, doing: str) -> None:
        """Go on when everyone is here; errors as in `gather`."""
        self.gather(None, doing=doing)

    @contextmanager
    def one_after_first(self, doing: str):
        """The block runs in the first rank, then in the others, who find what the first one made."""
        if not self.is_first:
            self.wait(doing)
        yield
        if self.is_first:
            self.wait(doing)

    def stop(self, ended: BaseException) -> bool:
        """Tell the peers, wherever they meet next, that this rank ends; whether all know and can save together."""
        if self.world == 1 or getattr(ended, "is_agreed", False):
            return True
        with signals.held():
            try:
                self._exchange((True, None), "ending after a signal", _STOP_TIMEOUT_S)
            except PtdpoError:
                return False
            signals.forget()
        return True

    def _exchange(self, message, doing: str, timeout_s: float) -> list:
        try:
            # Before the exchange itself, because it alone can say who is missing.
            dist.monitored_barrier(_control, timeout=timedelta(seconds=timeout_s), wait_all_ranks=True)
            told = [None] * self.world
            dist.all_gather_object(told, message, group=_control)
        except RuntimeError as error:
            raise PtdpoError(
                f"rank {self.rank} waited in vain for its peers: {doing}",
                expected=f"all {self.world} ranks within {timeout_s:.0f} s (distributed.timeout_minutes)",
                found=" ".join(str(error).split())[:300],
                hint="the last lines of the log of the rank named above tell whether it died, hangs, or has more to do",
            ) from None
        return told


ALONE = Ranks()


def join(timeout_minutes: float) -> Ranks:
    """The process group that torchrun's environment announces; ALONE where there is none."""
    global _control
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    timeout = timedelta(minutes=timeout_minutes)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timeout)
    _control = dist.new_group(backend="gloo", timeout=timeout)
    return Ranks(dist.get_rank(), world, timeout.total_seconds())


def leave(code: int) -> None:
    """End this process now if it is one of several.

    torch's gloo groups abort one process in ten ("terminate called without an active exception") that has done all its
    work and is only being taken down by Python; a chain of jobs would take it for a failure.
    """
    if _control is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def look_at_nothing(model: nn.Module) -> torch.Tensor:
    """The vision tower over the smallest black picture, as one number: its parameters take part, and add nothing."""
    vision = model.config.vision_config
    if hasattr(vision, "spatial_merge_size"):  # pictures of any size, cut into patches
        merge = vision.spatial_merge_size
        pixels = torch.zeros(merge**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        picture = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, merge, merge]])}
    else:
        picture = {"pixel_values": torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)}
    picture = {name: tensor.to(model.device) for name, tensor in picture.items()}
    seen = model.model.get_image_features(**picture, return_dict=True)
    leaves = [leaf for leaf in tree_leaves(dict(seen)) if torch.is_tensor(leaf) and leaf.is_floating_point()]
    return sum(leaf.sum() for leaf in leaves)


def share(
    policy: Policy, ranks: Ranks, strategy: str, as_module: Callable[..., nn.Module], *, master_weights: bool
) -> tuple[nn.Module, nn.Module]:
    """The model in training and the module to call for it (`as_module(model)`, wrapped), by `distributed.strategy`.

    none: the policy's own model. ddp: the same, wrapped; peers average gradients. fsdp2: a second copy of the model
    whose parameters lie in parts on all ranks (DTensor), with master weights in float32 and narrow only where they
    compute; the policy's own stays whole, for sampling and for the disk.
    """
    if strategy == "fsdp2":
        trained = copy.deepcopy(policy.model)
        mesh, precision = init_device_mesh(trained.device.type, (ranks.world,)), MixedPrecisionPolicy()
        if master_weights and policy.adapter is None and torch.finfo(trained.dtype).bits < 32:
            precision = MixedPrecisionPolicy(param_dtype=trained.dtype, reduce_dtype=torch.float32)
            trained.float()
        for layer in _layers(trained):
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        return trained, fully_shard(as_module(trained, is_shared=True), mesh=mesh, mp_policy=precision)
    if strategy == "ddp":
        module = as_module(policy.model, is_shared=True)
        _require_no_idle_parameters(policy.model)
        return policy.model, nn.parallel.DistributedDataParallel(module)
    return policy.model, as_module(policy.model)


def _require_no_idle_parameters(model: nn.Module) -> None:
    """DDP never sends a bucket with a parameter that no forward uses (CLIP has one), so that peers would part."""
    if model.config.model_type not in TESTED:
        raise UsageError(
            f"models of type {model.config.model_type} are not supported with DDP",
            expected=", ".join(TESTED),
            found="a model that may have parameters which no forward uses",
            hint="`--set distributed.strategy=fsdp2`",
        )


def _layers(model: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one at a time: those that the model says must not be split."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@torch.no_grad()
def collect(trained: nn.Module, policy: Policy) -> None:
    """Bring the parts together in the policy's own model; nothing to do where that is what is trained."""
    if trained is policy.model:
        return
    own = dict(policy.model.named_parameters())
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            own[name].copy_(whole(parameter.detach()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whole, whether it lies in parts or not."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def strategy_of(name: str, ranks: Ranks) -> str:
    """`auto` is DDP among several processes; a strategy for several cannot be had alone."""
    if ranks.world == 1 and name not in ("auto", "none"):
        raise UsageError(
            f"distributed.strategy = {name} needs several processes",
            found="one process",
            hint="start it with `torchrun --standalone --nproc-per-node 2 -m -- ptdpo_cli train …`, "
            "or train in one process: `--set distributed.strategy=auto`",
        )
    if ranks.world > 1 and name == "none":
        raise UsageError(
            f"distributed.strategy = none, but {ranks.world} processes were started",
            hint="`--set distributed.strategy=ddp` (or fsdp2), or start a single process without torchrun",
        )
    return "ddp" if name == "auto" and ranks.world > 1 else name
