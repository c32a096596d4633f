"""Rule-based rewards: extract the answer, compare it, look at the form; what could hang runs in worker processes."""

from ptdpo_cli.rewards.extract import extract, extract_boxed
from ptdpo_cli.rewards.format import format_reward
from ptdpo_cli.rewards.functions import check_functions
from ptdpo_cli.rewards.grades import Grade, Response, grade, grade_all
from ptdpo_cli.rewards.proof import check_answers
from ptdpo_cli.rewards.published import published
from ptdpo_cli.rewards.verify import check_answer, verify

__all__ = [
    "Grade", "Response", "check_answer", "check_answers", "check_functions", "extract", "extract_boxed",
    "format_reward", "grade", "grade_all", "published", "verify",
]
