"""The adapters of the public data sets by the name of their card."""

from __future__ import annotations

from types import ModuleType

from ptdpo_cli.datasets import (
    dynamath,
    geometry3k,
    hallusionbench,
    logicvista,
    mathverse,
    mathvision,
    mathvista,
    mm_eureka,
    mmk12,
    mmmu,
    mmmu_pro,
    mmstar,
    papo_eval,
    papo_mmk12,
    papo_virl39k,
    virl39k,
    we_math,
)

ADAPTERS: dict[str, ModuleType] = {
    module.CARD.name: module
    for module in (
        mathvista, mathverse, mathvision, mmmu, mmmu_pro, we_math, logicvista, dynamath, mmstar, hallusionbench,
        geometry3k, mmk12, virl39k, papo_virl39k, papo_mmk12, papo_eval, mm_eureka,
    )
}
