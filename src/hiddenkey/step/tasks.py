"""Which tasks have predictions that can be compared: keys are those of ``anatomy.task_of``."""

from typing import Final

LANGUAGE: Final = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")
"""Those whose classes are the tokens of a language."""

SHIFTED: Final = ("ForCausalLM",)
"""Those in which a token's label is the next token."""

MADE_OF_LABELS: Final = ("ForConditionalGeneration",)
"""Those whose decoder's input is made of the labels."""

BY_TOKEN: Final = (*LANGUAGE, "ForTokenClassification")
CLASSIFIES: Final = ("ForSequenceClassification", "ForImageClassification")
CHOICES: Final = "ForMultipleChoice"
ANSWERS: Final = "ForQuestionAnswering"
TASKS: Final = (*CLASSIFIES, *BY_TOKEN, ANSWERS, CHOICES)
