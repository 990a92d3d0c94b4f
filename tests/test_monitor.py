"""The monitor against the metrics of all features at once, on models of anybody's own, and that it leaves no trace in them."""

import copy
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, default_collate

import ncbook
from ncbook.metrics import collapse_metrics, feature_norm
from ncbook.monitor import CollapseMonitor, PredictedOnset

PAGE = Path(__file__).resolve().parent.parent / "book" / "monitor.md"
KEYS = {"nc1", "nc1_trace_ratio", "nc2_equinorm", "nc2_equiangularity", "nc2_gram", "nc3", "nc3_uncentred", "nc4"}


class Network(nn.Module):
    """A model of somebody's own: batch norm, dropout, and features that only its `forward` knows."""

    def __init__(self, classes=4, dim=6, offset=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, dim))
        self.fc = nn.Linear(dim, classes)
        nn.init.constant_(self.body[-1].bias, offset)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.fc(self.features(x))


def problem(seed=0, points=211, **kwargs):
    """A model, and points of imbalanced classes that are sorted, so that most batches lack most classes."""
    torch.manual_seed(seed)
    model = Network(**kwargs).double()
    labels = torch.multinomial(torch.tensor([8.0, 4, 2, 1]), points, replacement=True).sort().values
    return model, torch.randn(points, 5, dtype=torch.float64) + labels.unsqueeze(-1), labels


def expected(model, x, y):
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        features = model.features(x)
        found = collapse_metrics(features, y, model.fc.weight, model.fc.bias) | {"feature_norm": feature_norm(features)}
        error = (model(x).argmax(-1) != y).double().mean()
    return {name: value.item() for name, value in found.items()} | {"train_error": error.item()}


def batches(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


class TestParity:
    @pytest.mark.parametrize("size", [1, 7, 64, 211])
    @pytest.mark.parametrize("settings", [{}, {"dim": 2}, {"dim": 40}, {"offset": 1e6}], ids=str)
    def test_batches_of_any_size_give_what_all_points_give_at_once(self, size, settings):
        model, x, y = problem(**settings)
        found = CollapseMonitor(model, classifier="fc").measure(batches(x, y, size))
        assert set(found) == KEYS | {"epoch", "feature_norm", "train_error"}
        for name, value in expected(model, x, y).items():
            assert found[name] == pytest.approx(value, rel=1e-6), name

    def test_features_far_from_the_origin_lose_no_digits(self):
        near, far = (CollapseMonitor(model, features=model).measure for model in (nn.Identity(), nn.Identity()))
        x, y = problem()[1:]
        shifted = far(batches(x + 2.0**20, y, 10))
        for name, value in near(batches(x, y, 10)).items():
            if name != "feature_norm":
                assert shifted[name] == pytest.approx(value, rel=1e-6), name

    def test_a_data_loader_that_shuffles_and_a_model_in_single_precision(self):
        model, x, y = problem()
        model, x = model.float(), x.float()
        found = CollapseMonitor(model, classifier=model.fc).measure(DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True))
        for name, value in expected(model, x, y).items():
            assert found[name] == pytest.approx(value, rel=1e-5), name  # batches of another size round differently in float32

    @pytest.mark.parametrize("by", ["name", "module"])
    def test_the_output_of_a_module_has_no_nc3_and_nc4(self, by):
        model, x, y = problem()
        found = CollapseMonitor(model, features="body" if by == "name" else model.body).measure(batches(x, y, 50))
        assert set(found) == KEYS - {"nc3", "nc3_uncentred", "nc4"} | {"epoch", "feature_norm"}
        for name, value in expected(model, x, y).items():
            assert name not in found or found[name] == pytest.approx(value, rel=1e-6), name

    def test_a_classifier_without_bias_that_is_called_by_keyword(self):
        class Keyword(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(5, 4, bias=False)

            def forward(self, x):
                return self.head(input=x)

        _, x, y = problem()
        model = Keyword().double()
        found = CollapseMonitor(model, classifier="head").measure(batches(x, y, 50))
        for name, value in collapse_metrics(x, y, model.head.weight).items():
            assert found[name] == pytest.approx(value.item(), rel=1e-6), name

    def test_class_means_that_coincide_have_no_collapse(self):
        found = CollapseMonitor(nn.Sequential(nn.Linear(2, 2)), classifier="0").measure([(torch.ones(6, 2), torch.arange(6) % 2)])
        assert all(math.isnan(found[name]) for name in KEYS - {"nc3_uncentred"})


class TestPasses:
    @pytest.mark.parametrize(("options", "passes"), [({}, 2), ({"nc4": False}, 1)])
    def test_nc4_takes_a_second_pass_and_all_else_takes_one(self, options, passes):
        model, x, y = problem()
        started = []

        class Loader:
            def __iter__(self):
                started.append(True)
                return iter(batches(x, y, 50))

        found = CollapseMonitor(model, classifier="fc", **options).measure(Loader())
        assert len(started) == passes
        assert ("nc4" in found) == (passes == 2)

    def test_both_passes_see_the_same_random_augmentation(self):
        model, x, y = problem()

        class Noisy(torch.utils.data.Dataset):
            drawn = []

            def __len__(self):
                return len(x)

            def __getitem__(self, i):
                self.drawn.append(torch.randn(5, dtype=torch.float64))
                return x[i] + self.drawn[-1], y[i]

        CollapseMonitor(model, classifier="fc").measure(DataLoader(Noisy(), batch_size=20, shuffle=True))
        assert torch.equal(torch.stack(Noisy.drawn[: len(x)]), torch.stack(Noisy.drawn[len(x) :]))


def trace(model):
    hooks = [len(hooks) for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)]
    return [module.training for module in model.modules()], hooks, [p.grad for p in model.parameters()], torch.is_grad_enabled()


class TestNoTrace:
    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("where", [{"classifier": "fc"}, {"features": "body"}], ids=str)
    def test_the_model_is_left_as_it_was(self, where, fails):
        model, x, y = problem()
        model.train()
        model.body[1].eval()  # frozen batch norm
        before, state, drawn = trace(model), copy.deepcopy(model.state_dict()), torch.get_rng_state()
        loader = DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True)
        if fails:
            with pytest.raises(ValueError, match="NaN"):
                CollapseMonitor(model, **where).measure([*loader, (x * math.nan, y)])
            drawn = torch.get_rng_state()  # the test itself has gone through the loader
        else:
            CollapseMonitor(model, **where).measure(loader)
        assert trace(model) == before
        assert torch.equal(torch.get_rng_state(), drawn)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_training_is_the_same_to_the_last_bit_with_and_without_it(self):
        def trained(watched):
            model, x, y = problem()
            optimizer, loader = torch.optim.Adam(model.parameters()), DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True)
            monitor = CollapseMonitor(model, classifier="fc")
            for _ in range(3):
                for images, labels in loader:
                    optimizer.zero_grad()
                    cross_entropy(model(images), labels).backward()
                    optimizer.step()
                if watched:
                    monitor.measure(loader)
            return model.fc.weight

        assert torch.equal(trained(True), trained(False))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.fc(x))


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2] * 2)
HEAD = nn.Sequential(nn.Identity(), nn.Linear(3, 3))
CONVOLUTION = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Linear(3, 3))


def measure(loader, model=HEAD, **where):
    return CollapseMonitor(model, **(where or {"classifier": "1"})).measure(loader)


REFUSALS = [
    (lambda: CollapseMonitor(HEAD), TypeError, "needs either classifier=, the last linear layer, or features="),
    (lambda: CollapseMonitor(HEAD, classifier="1", features="0"), TypeError, "needs either"),
    (lambda: CollapseMonitor(HEAD, classifier="fc"), ValueError, "'fc' is no module of the Sequential: its last ones are the model, 0, 1."),
    (lambda: CollapseMonitor(HEAD, classifier=nn.Linear(3, 3)), ValueError, "the given Linear is no module of the Sequential"),
    (lambda: CollapseMonitor(HEAD, classifier="0"), ValueError, "classifier='0' is a Identity without a weight [classes, features]"),
    (lambda: CollapseMonitor(CONVOLUTION, classifier="0"), ValueError, "classifier='0' is a Conv1d without a weight [classes, features]"),
    (lambda: measure([]), ValueError, "the loader gave no batch"),
    (lambda: measure([X]), TypeError, "the loader gave a Tensor, not a batch (inputs, labels) of tensors"),
    (lambda: measure([{"x": X, "y": Y}]), TypeError, "the loader gave a dict"),
    (lambda: measure([(X, Y.float())]), TypeError, "labels are torch.float32, not whole numbers"),
    (lambda: measure([(X, Y[:5])]), ValueError, "labels [5] do not fit the input of '1' [6, 3]: they need [points]."),
    (lambda: measure([(X, Y + 1)]), ValueError, "label 3 is outside 0..2, the classes of '1'."),
    (lambda: measure([(X, Y - 1)]), ValueError, "label -1 is no class"),
    (lambda: measure([(X, Y.clamp(max=1))]), ValueError, "class 2 of 0..2 has no point"),
    (lambda: measure([(X, Y * 2)], features="0"), ValueError, "class 1 of 0..4 has no point"),
    (lambda: measure([(X * math.nan, Y)]), ValueError, "the input of '1' holds NaN or infinite values: the training has diverged."),
    (lambda: measure([(X.unsqueeze(1), Y)], CONVOLUTION), ValueError, "the input of '1' has shape [6, 2, 3], not [points, features]"),
    (lambda: measure([(X.unsqueeze(1), Y)], CONVOLUTION, features="0"), ValueError, "the output of '0' has shape [6, 2, 3]"),
    (lambda: measure([(X, Y)], Twice(), classifier="fc"), ValueError, "the model called 'fc' 2 times for one batch"),
    (lambda: measure(iter([(X, Y)])), ValueError, "the loader gave 6 points, but 0 in the second pass, for NC4"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS, ids=[message[:50] for *_, message in REFUSALS])
def test_refusals_name_what_is_wrong(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_the_history_has_a_row_for_each_epoch_and_keeps_its_order():
    model, x, y = problem()
    monitor = CollapseMonitor(model, classifier="fc")
    assert monitor.history.empty
    rows = [monitor.measure(batches(x, y, 50)), monitor.measure(batches(x, y, 50), epoch=10), monitor.measure(batches(x, y, 50))]
    assert monitor.history.to_dict("records") == rows
    assert list(monitor.history["epoch"]) == [1, 10, 11]
    with pytest.raises(ValueError, match="epoch=11 is not after the last that was measured, 11"):
        monitor.measure(batches(x, y, 50), epoch=11)
    monitor.history.drop(index=0)
    assert len(monitor.history) == 3


class TestPredictedOnset:
    """Features whose length is given epoch by epoch."""

    @staticmethod
    def watched(norms, wrong=()):
        """A monitor that saw feature norms `norms` from epoch 1 on; in the epochs `wrong` all decisions were false."""
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        monitor = CollapseMonitor(model, classifier="1")
        for epoch, norm in enumerate(norms, 1):
            with torch.no_grad():
                model[0].weight.copy_(norm * torch.eye(3))
                model[1].weight.copy_(-torch.eye(3) if epoch in wrong else torch.eye(3))
            monitor.measure([(torch.eye(3).repeat(2, 1), Y)])
        return monitor

    def test_the_crossing_plus_the_mean_lead_with_students_interval_for_one_new_run(self):
        onset = self.watched([16, 8, 4, 2, 1]).predicted_onset([2.5, 3.5, math.nan], [10, 14, 12, math.nan])
        assert onset == PredictedOnset(*onset)
        assert onset.crossing == pytest.approx(1 + math.log2(16 / 3))
        assert onset.known_at == 4
        assert onset.epoch == pytest.approx(onset.crossing + 12)
        half = 4.302653 * 2 * math.sqrt(1 + 1 / 3)  # t of two degrees of freedom
        assert (onset.low, onset.high) == pytest.approx((onset.epoch - half, onset.epoch + half), rel=1e-6)

    def test_before_the_crossing_there_is_none(self):
        assert self.watched([]).predicted_onset([3], [10]) is None
        assert self.watched([16, 8, 4]).predicted_onset([3], [10]) is None
        assert self.watched([1, 2, 4, 8]).predicted_onset([3], [10]) is None

    def test_one_lead_has_no_interval(self):
        onset = self.watched([16, 1]).predicted_onset([4], [10])
        assert (onset.epoch, math.isnan(onset.low), math.isnan(onset.high)) == (pytest.approx(11.5), True, True)

    def test_a_crash_at_a_change_of_the_loss_is_no_crossing(self):
        norms = [16, 16, 1, 1, 8, 8, 2]
        assert self.watched(norms).predicted_onset([4], [0]).known_at == 3
        assert self.watched(norms).predicted_onset([4], [0], switch=2).known_at == 7
        assert self.watched(norms, wrong=(3, 4)).predicted_onset([4], [0]).known_at == 7

    @pytest.mark.parametrize(("fn_star", "leads"), [([], [1]), ([1], []), ([1], [math.nan])])
    def test_without_earlier_runs_it_says_what_is_missing(self, fn_star, leads):
        with pytest.raises(ValueError, match=r"values of fn\* and 0 leads|0 values of fn\*"):
            self.watched([2, 1]).predicted_onset(fn_star, leads)

    def test_without_a_classifier_it_says_why(self):
        with pytest.raises(ValueError, match=r"needs the training error, .*: give the monitor a classifier="):
            CollapseMonitor(HEAD, features="0").predicted_onset([1], [1])


class TestPage:
    """What `book/monitor.md` shows, run as it stands there."""

    def test_the_example_has_ten_lines_and_runs_and_says_what_the_metrics_say(self):
        example, prediction = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        lines = [line for line in example.splitlines() if line and not re.match(r"(from|import) ", line)]
        assert len(lines) == 10
        histories = []
        for seed in range(4):
            torch.manual_seed(seed)
            exec(example, names := {})
            histories.append(names["monitor"].history)
        history, model, data = histories[-1], names["model"], default_collate(names["loader"].dataset)
        assert list(history["epoch"]) == list(range(1, 21))
        assert history["train_error"].iloc[-1] < 0.05
        found = collapse_metrics(model[:2](data[0]), data[1], model[2].weight, model[2].bias)
        for name in KEYS:
            assert history[name].iloc[-1] == pytest.approx(found[name].item(), rel=1e-6), name
        exec(prediction, names := {"histories": histories[:3], "monitor": names["monitor"]})
        told = names["told"]
        assert names["onset"] is None or names["onset"].crossing + told["lead"].mean() == pytest.approx(names["onset"].epoch)
        assert len(told) == 3


def test_the_package_offers_it_without_importing_torch():
    program = "import ncbook, sys; assert 'torch' not in sys.modules; assert ncbook.CollapseMonitor.__module__ == 'ncbook.monitor'"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Monitor'"):
        ncbook.Monitor  # noqa: B018
