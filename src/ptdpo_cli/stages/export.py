"""export: an evaluation in the sample formats of lmms-eval and VLMEvalKit, so that their own tools open it.

Both formats are written from their sources, lmms-eval 0.7.3 and VLMEvalKit (ms-vlmeval 0.0.20); docs/judge.md has the
fields. Below OUT, for each benchmark of the evaluation, DATE being when it was made and MODEL a name for its policy:

    lmms-eval/MODEL/DATE_samples_BENCHMARK.jsonl            greedy answers; _sampled.jsonl: all samples of a problem
    lmms-eval/MODEL/DATE_results.json                       what lmms-eval's viewer finds them by
    vlmevalkit/MODEL/greedy/MODEL_DATASET.tsv               one prediction per problem; sample-0, sample-1, … likewise
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ptdpo_cli.artifacts.schemas import Problem
from ptdpo_cli.artifacts.store import Artifact, replace_synced
from ptdpo_cli.errors import UsageError
from ptdpo_cli.models.prompt import user_message
from ptdpo_cli.stages.summary import GREEDY

FORMATS = ("lmms-eval", "vlmevalkit")

# What VLMEvalKit calls the data sets that we have under another name.
_VLMEVALKIT_NAMES = {
    "mathvista": "MathVista_MINI", "mathverse": "MathVerse_MINI", "mathvision": "MathVision", "mmmu": "MMMU_DEV_VAL",
    "mmmu-pro": "MMMU_Pro_10c", "we-math": "WeMath", "logicvista": "LogicVista", "dynamath": "DynaMath",
    "mmstar": "MMStar", "hallusionbench": "HallusionBench",
}


def require_formats(formats: Iterable[str]) -> None:
    """Refuse an unknown format before any work."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError("unknown export format", expected=" | ".join(FORMATS), found=name,
                             hint=f"`--export {FORMATS[0]}`; repeat the option for several")


def model_name(evals: Artifact) -> str:
    """A name for the policy that was evaluated: an evaluation knows the hash of its weights, not where they lay."""
    return f"ptdpo-{(evals.manifest.policy_hash or evals.content_hash)[:8]}"


def export(
    evals: Artifact, problems: Sequence[Problem], formats: Iterable[str], out: Path, *, model: str | None = None
) -> list[Path]:
    """Writes the files of these formats below `out` and names them; the same evaluation gives the same bytes.

    `problems` are those that it was made from, in their order: a sample's number is its place among its benchmark's.
    """
    model = _file_name(model or model_name(evals))
    rows = evals.table("evals").to_pylist()
    writers: dict[str, Callable[..., dict[str, str]]] = {"lmms-eval": _lmms_eval, "vlmevalkit": _vlmevalkit}
    written = []
    for name in dict.fromkeys(formats):
        for place, text in writers[name](evals, _by_benchmark(rows, problems), model).items():
            path = out / name / model / place
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_synced(path, text.encode())
            written.append(path)
    return written


# benchmark -> (number, problem, its rows) of each problem that was answered
_Benchmarks = Mapping[str, list[tuple[int, Problem, list[dict]]]]


def _by_benchmark(rows: Iterable[dict], problems: Sequence[Problem]) -> _Benchmarks:
    answered: dict[str, list[dict]] = {}
    for row in rows:
        answered.setdefault(row["problem_id"], []).append(row)
    counted: dict[str, int] = {}
    found: dict[str, list] = {}
    for problem in problems:
        benchmark = problem.source or "problems"
        number = counted[benchmark] = counted.get(benchmark, -1) + 1
        if problem.problem_id in answered:
            found.setdefault(benchmark, []).append((number, problem, answered[problem.problem_id]))
    return found


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "model"


# --- lmms-eval --------------------------------------------------------------------------------------------------------


def _lmms_eval(evals: Artifact, benchmarks: _Benchmarks, model: str) -> dict[str, str]:
    manifest = evals.manifest
    date = re.sub(r"[-:]", "", manifest.created_utc[:19]).replace("T", "_")
    instruction = manifest.section["prompt"]["instruction"]
    files, results, n_samples, hashes = {}, {}, {}, {}
    for benchmark, answered in benchmarks.items():
        task = re.sub(r"\W", "_", benchmark)
        for name, is_greedy in ((task, True), (f"{task}_sampled", False)):
            chosen = [(number, problem, [row for row in rows if (row["sample"] == GREEDY) == is_greedy])
                      for number, problem, rows in answered]
            chosen = [one for one in chosen if one[2]]
            # lmms-eval gives an answer without a score one of its own, by comparing strings: it is left out.
            scored = [one for one in chosen if any(row["accuracy"] is not None for row in one[2])]
            if not chosen:
                continue
            samples = [_lmms_eval_sample(*one, instruction) for one in scored]
            files[f"{date}_samples_{name}.jsonl"] = "".join(f"{_json(sample)}\n" for sample in samples)
            mean = sum(sample["score"] for sample in samples) / len(samples) if samples else None
            results[name] = {"alias": name, "accuracy,none": mean}
            n_samples[name] = {"original": len(chosen), "effective": len(samples)}
            named = (f"sample_{index}{sample['doc_hash']}" for index, sample in enumerate(samples))
            hashes[name] = _sha256("".join(named))
    summary = {
        "results": results,
        "n-samples": n_samples,
        "config": {"model": "ptdpo", "model_args": f"policy_sha256={manifest.policy_hash}", "limit": None},
        "date": date,
        "task_hashes": hashes,
        "model_name": model,
        "model_name_sanitized": model,
    }
    return files | {f"{date}_results.json": json.dumps(summary, indent=2, ensure_ascii=False) + "\n"}


def _lmms_eval_sample(number: int, problem: Problem, rows: Sequence[dict], instruction: str) -> dict:
    """One line of a samples file.

    A list with one entry stands there as its entry, and `resps` is left out where it says what `filtered_resps` says.
    """
    doc = {"problem_id": problem.problem_id, "question": problem.question, "choices": list(problem.choices),
           "answer": problem.answer, "category": problem.category, **problem.metadata}
    said = [row["text"] for row in rows]
    filtered = [_without_thought(text) for text in said]
    is_one = len(rows) == 1
    resps = said if is_one else [[text] for text in said]
    scores = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return {
        "doc_id": number,
        "target": problem.answer,
        **({} if is_one and said == filtered else {"resps": resps}),
        "filtered_resps": filtered[0] if is_one else filtered,
        "token_counts": [{"output_tokens": row["response_tokens"]} for row in rows],
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "score": sum(scores) / len(scores),
        "extracted": [row["extracted"] for row in rows],
        "outcome": [row["outcome"] for row in rows],
        "problem_id": problem.problem_id,
        "category": problem.category,
        "input": user_message(problem.question, 0, instruction=instruction)[0]["content"][-1]["text"],
    }


def _without_thought(text: str) -> str:
    """As lmms-eval cuts it off: a thought that never ends stays."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    return (text if "<think>" in text else text.rpartition("</think>")[2]).strip()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- VLMEvalKit -------------------------------------------------------------------------------------------------------


def _vlmevalkit(evals: Artifact, benchmarks: _Benchmarks, model: str) -> dict[str, str]:
    files = {}
    for benchmark, answered in benchmarks.items():
        dataset = _VLMEVALKIT_NAMES.get(benchmark) or _file_name(benchmark)
        for sample in sorted({row["sample"] for _, _, rows in answered for row in rows}):
            table = [
                _vlmevalkit_row(number, problem, row)
                for number, problem, rows in answered for row in rows if row["sample"] == sample
            ]
            folder = "greedy" if sample == GREEDY else f"sample-{sample}"
            files[f"{folder}/{model}_{dataset}.tsv"] = _tsv(table)
    return files


def _vlmevalkit_row(number: int, problem: Problem, row: Mapping) -> dict[str, object]:
    """A row of a prediction file: the columns of the data set's own table but for the pictures, and `prediction`."""
    about = {name.replace("l2_category", "l2-category"): value for name, value in problem.metadata.items()}
    options = {chr(ord("A") + index): text for index, text in enumerate(problem.choices)}
    listed = {"choices": list(problem.choices), "answer_option": problem.answer} if problem.choices else {}
    return {"answer_type": problem.answer_type} | about | {
        "index": about.get("index", number), "id": problem.problem_id, "question": problem.question,
        **options, **listed, "answer": problem.answer, "category": about.get("category", problem.category),
        "split": problem.split, "prediction": row["text"],
    }


def _tsv(rows: Sequence[Mapping]) -> str:
    """As pandas writes it with every cell quoted; a cell that a row lacks is empty.

    A column that is empty throughout is left out: VLMEvalKit takes an empty split for one that no row is in.
    """
    filled = {name: None for row in rows for name, value in row.items() if value not in (None, "")}
    names = {name: None for name in filled if name != "prediction"} | {"prediction": None}
    first = [name for name in ("index", "question") if name in names]
    names = [*first, *(name for name in names if name not in first)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return _json(value) if isinstance(value, list | dict) else value
