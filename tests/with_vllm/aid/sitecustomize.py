"""Lets a torchvision built for CUDA import beside a CPU build of torch. vLLM needs its transforms.

Its compiled operators do not load there, and the import fails for want of two schemas. Defined first, they let the
transforms work; the operators have no kernel and no model here uses them. Python runs this file at its start where
this folder is on PYTHONPATH, in the processes that vLLM starts too. A test's aid, no part of the package.
"""

import sys


class _BeforeTorchvision:
    """Asked for every import; acts once, on torchvision, and finds nothing itself."""

    kept: list = []  # noqa: RUF012 (a torch library lives as long as its object)

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not self.kept:
            import torch

            self.kept.append(torch.library.Library("torchvision", "FRAGMENT"))
            for operator in ("nms", "qnms"):
                self.kept[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _BeforeTorchvision())
