"""A file of each benchmark as it is published: few rows, the columns and types of the original."""

import json

import pytest

VIDEOMME = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Humanity & History",
    "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
    "videoID": "fFjv93ACGo8",
    "question_id": "001-1",
    "task_type": "Counting Problem",
    "question": "Which of the following is shown first?",
    "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All alike."],
    "answer": "C",
}
MVBENCH = {
    "video": "ZS9XR.mp4",
    "question": "What happened after the person took the food?",
    "candidates": ["Ate the medicine.", "Tidied up the blanket.", "Put down the cup."],
    "answer": "Ate the medicine.",
    "start": 11.1,
    "end": 20.6,
}
NEXTQA = {
    "video": "4010069381",
    "frame_count": 369,
    "width": 640,
    "height": 480,
    "question": "how do the two man play the instrument",
    "answer": 0,
    "qid": 6,
    "type": "CH",
    "a0": "roll the handle",
    "a1": "tap their feet",
    "a2": "2",
    "a3": "hit with sticks",
    "a4": "pat with hand",
}
NEXTQA_OPEN = {
    "video": "4010069381",
    "frame_count": 369,
    "width": 640,
    "height": 480,
    "question": "how many people are there",
    "answer": "two",
    "qid": 3,
    "type": "DC",
    "additional_ref_answer": "a pair",
}
EGOSCHEMA = {
    "question_idx": "0",
    "question": "Taking into account all the actions, what was done?",
    "video_idx": "001934bb-81bd-4cd8-a574-0472ef3f6678",
    "option": ["A. C cooks.", "B. C cleans.", "C. C reads.", "D. C sleeps.", "E. C walks."],
    "answer": "3",
}
EGOSCHEMA_JSON = {
    "q_uid": "001934bb-81bd-4cd8-a574-0472ef3f6678",
    "google_drive_id": "x",
    "question": "Taking into account all the actions, what was done?",
    "option 0": "C cooks.",
    "option 1": "C cleans.",
    "option 2": "C reads.",
    "option 3": "C sleeps.",
    "option 4": "C walks.",
}
LONGVIDEOBENCH = {
    "video_id": "86CxyhFV9MI",
    "question": "Which subtitle appears with the man in black?",
    "question_wo_referring_query": "Which subtitle appears?",
    "option0": "promisc has come to an end, in and run",
    "option1": "captain of the godson",
    "option2": "at the end",
    "option3": "N/A",
    "option4": "N/A",
    "correct_choice": 1,
    "topic_category": "NP-News-Programs",
    "question_category": "TOS",
    "level": "L2-Relation",
    "id": "86CxyhFV9MI_0",
    "video_path": "86CxyhFV9MI.mp4",
    "subtitle_path": "86CxyhFV9MI_en.json",
    "duration_group": 600,
    "starting_timestamp_for_subtitles": 0,
    "duration": 190.16,
    "view_count": 259852,
}
MLVU = {
    "video_name": "order_71.mp4",
    "duration": 480.0,
    "question": "How many shots?\n(A) 3\n(B) 2\n(C) 5\n(D) 0",
    "candidates": ["3", "2", "5", "0"],
    "answer": "B",
    "task_type": "count",
    "question_id": "Q1",
}
MLVU_JSON = {
    "video": "count_1.mp4",
    "duration": 430.0,
    "question": "How many shots?",
    "candidates": ["3", "2", "5", "0"],
    "answer": "2",
    "question_type": "count",
}
ACTIVITYNET = {
    "video_name": "1QIUV7WYKXg",
    "question": "is the athlete wearing trousers",
    "question_id": "v_1QIUV7WYKXg_3",
    "answer": "yes",
    "type": "3",
}
MSVD = {"answer": "cut", "id": 37517, "question": "what does a man do?", "video_id": 1301}


def put(path, rows):
    """The rows in the form that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        cells = [list(rows[0]), *(row.values() for row in rows)]
        lines = [",".join('"' + str(c).replace('"', '""') + '"' for c in row) for row in cells]
        path.write_text("\n".join(lines))
    else:
        path.write_text(json.dumps(rows))
    return path
