"""What of the settings reaches whom when a model is loaded."""

import onnxruntime
import pytest
import torch

import handler.serving.answering as answering
from handler.loading import load_service


@pytest.fixture
def threads():
    """The number of torch's threads, which is one for the whole process."""
    before = torch.get_num_threads()
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_the_threads_of_the_settings_are_those_of_torch_of_the_graphs_and_of_drawing(
    shapes_graphs, monkeypatch, threads
):
    sessions, painters = [], []
    open_session, make_pool = onnxruntime.InferenceSession, answering.ThreadPoolExecutor

    def opened(path, options, **more):
        sessions.append(options.intra_op_num_threads)
        return open_session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(
        answering, "ThreadPoolExecutor", lambda count, name: painters.append(count) or make_pool(count, name)
    )
    wanted = threads() + 2
    load_service(shapes_graphs, "m", "1.0", {"explain": {"threads": wanted}, "maxWorkers": 1})
    assert (threads(), sessions, painters) == (wanted, [wanted] * 3, [wanted])
