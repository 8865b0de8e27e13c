"""What is uploaded and asked: sentences, and questions for them that share no word with them."""

from __future__ import annotations

import re

# Fewer than 800 characters: Archon makes one chunk of it.
CANARY = """The lighthouse keeper climbs the spiral staircase every evening and polishes the brass lamp. When thick fog hides the
rocky coast, he sounds the horn so that fishing boats find their way into the harbour. During winter storms the waves break over
the sea wall, and the supply boat cannot land for days.

This note was made by archon-align to see that uploads are embedded and found. It is removed within a minute: {marker}
"""
PARAPHRASE = "Who guides ships safely to port at night by shining a beacon, warning sailors of cliffs?"
# Whatever a knowledge base holds, something in it is nearest to one of these, and few of its pages have a word of them.
QUESTIONS = (
    "Whom should bewildered novices befriend?",
    "Why did everybody's gadgets become sluggish yesterday?",
    "Which precautions thwart burglars and eavesdroppers?",
    "Whose forgiveness must latecomers beg?",
    "Where do grown-ups stash jewellery overnight?",
)
TASK = "Write down what the lighthouse keeper does on a foggy evening. (A throw-away task of archon-align, removed within a minute.)"
PROJECT = (
    "A throw-away project of archon-align, by which template expansion is seen to work. It is removed within a minute."
)
_SHORTEST = 3


def shared_words(question: str, content: str) -> list[str]:
    """The words of `question` that a keyword search could find in `content`: also as a part of another word."""
    text = content.lower()
    return [
        word for word in dict.fromkeys(re.findall(r"\w+", question.lower())) if len(word) >= _SHORTEST and word in text
    ]
