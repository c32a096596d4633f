"""Post-train vision-language models with privileged tutoring."""

