"""From the token cache to batches: data sets of records, samplers and loaders that resume."""

from vidcomp.data.annotations import QAExample, read_annotations
from vidcomp.data.benchmarks import BENCHMARKS
from vidcomp.data.dataset import CachedTokenDataset, Sample, collate, collate_padded
from vidcomp.data.loader import TokenLoader
from vidcomp.data.qa import QADataset
from vidcomp.data.qa_batch import QABatch, QASample, collate_qa, collate_qa_padded
from vidcomp.data.questions import Question
from vidcomp.data.read_questions import QuestionSet, read_questions
from vidcomp.data.sampler import TokenBatchSampler

__all__ = [
    "BENCHMARKS",
    "CachedTokenDataset",
    "QABatch",
    "QADataset",
    "QAExample",
    "QASample",
    "Question",
    "QuestionSet",
    "Sample",
    "TokenBatchSampler",
    "TokenLoader",
    "collate",
    "collate_padded",
    "collate_qa",
    "collate_qa_padded",
    "read_annotations",
    "read_questions",
]
