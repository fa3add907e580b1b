"""What the store of people's votes promises, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiondpo.contracts import CandidateSet
from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.messages import FeedbackRequest, Vote
from fashiondpo.storage.feedback import MemoryFeedback
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.storage.redis_votes import RedisVotes
from fashiondpo.storage.votes import MemoryVotes, Tally, Votes, vote_on_set
from tests.protocols.places import Places
from tests.protocols.small_records import make_set

# Each makes a store without votes.
IMPLEMENTATIONS: dict[str, Callable[[Places], Votes]] = {
    "memory": lambda _: MemoryVotes(),
    "redis": lambda places: RedisVotes(places.redis(), places.prefix()),
}
SET = make_set("s1")


@pytest.fixture(params=IMPLEMENTATIONS)
def open_votes(request: pytest.FixtureRequest, places: Places) -> Callable[[], Votes]:
    return lambda: IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def votes(open_votes) -> Votes:
    return open_votes()


def vote(*values: float | None, of: CandidateSet = SET) -> list[Vote]:
    """A vote per candidate in order; None says nothing."""
    candidates = zip(of.candidates, values, strict=False)
    return [Vote(candidate_id=c.candidate_id, value=value) for c, value in candidates if value is not None]


def means(tally: Tally) -> list[float | None]:
    return [score.value for score in tally.scores]


class TestVotes:
    def test_on_a_set_are_forgotten_and_those_on_others_are_not(self, votes):
        votes.put(SET, "a", vote(1))
        votes.put(make_set("s2"), "a", vote(1, of=make_set("s2")))
        votes.remove("s1")
        votes.remove("s1")
        assert (votes.tally(SET).voters, votes.tally(make_set("s2")).voters) == (0, 1)

    def test_are_the_mean_of_what_people_say_and_silence_counts_zero(self, votes):
        votes.put(SET, "a", vote(1, -1))
        tally = votes.put(SET, "b", vote(0.5))
        assert means(tally) == [0.75, -0.5, 0.0] and tally.voters == 2
        assert votes.tally(SET) == tally

    def test_of_one_person_replace_that_persons_earlier_ones(self, votes):
        votes.put(SET, "a", vote(1, 1, 1))
        tally = votes.put(SET, "a", vote(None, -1))
        assert means(tally) == [0.0, -1.0, 0.0] and tally.voters == 1

    def test_say_who_judged_and_how_many(self, votes):
        score = votes.put(SET, "a", vote(1)).scores[0]
        assert (score.candidate_id, score.criterion, score.judge_version) == ("s1-0", "votes", "votes-1")
        assert score.diagnostics == {"voters": 1}

    def test_are_none_before_anybody_voted(self, votes):
        assert votes.tally(SET) == Tally(0, ())

    def test_belong_to_their_set(self, votes):
        votes.put(SET, "a", vote(1))
        assert votes.tally(make_set("s2")).voters == 0

    @pytest.mark.parametrize(
        "given",
        [vote(1, of=make_set("s2")), [*vote(1), *vote(0.5)], [*vote(1), *vote(1, of=make_set("s2"))]],
        ids=["other set", "twice", "one of another set"],
    )
    def test_that_cannot_be_right_are_refused_as_a_whole(self, votes, given):
        with pytest.raises(InvalidInput):
            votes.put(SET, "a", given)
        assert votes.tally(SET).voters == 0

    def test_at_once_are_all_counted(self, votes, busy_threads):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: votes.put(SET, f"voter-{i}", vote(1)), range(40)))
        assert votes.tally(SET).voters == 40

    def test_do_not_depend_on_the_order_in_which_people_came(self, open_votes):
        @settings(max_examples=10)
        @given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.randoms(use_true_random=False))
        def counted_alike(values, random) -> None:
            people = list(enumerate(values))
            tallies = []
            for _ in range(2):
                votes = open_votes()
                for person, value in people:
                    votes.put(SET, f"p{person}", vote(value))
                tallies.append(votes.tally(SET))
                random.shuffle(people)
            assert tallies[0] == tallies[1]

        counted_alike()

    def test_are_kept_without_saying_who_gave_them(self, places):
        client, prefix = places.redis(), places.prefix()
        for candidate_set in (SET, make_set("s2")):
            RedisVotes(client, prefix).put(candidate_set, "somebody@example.org", vote(1, of=candidate_set))
        kept = [client.hgetall(key) for key in client.scan_iter(f"{prefix}:*")]
        assert len(kept) == 2 and "somebody" not in str(kept)
        assert len({voter for ballots in kept for voter in ballots}) == 2  # nor that the same person voted twice


class TestVoteOnSet:
    @pytest.fixture(params=["memory", "redis"])
    def stores(self, request, places):
        feedback, votes = MemoryFeedback(), MemoryVotes()
        if request.param == "redis":
            prefix = places.prefix()
            feedback, votes = RedisFeedback(places.redis(), prefix), RedisVotes(places.redis(), prefix)
        feedback.put_set("r1", SET)
        return votes, feedback

    def ask(self, voter: str, *values: float, set_id: str = "s1") -> FeedbackRequest:
        return FeedbackRequest(set_id=set_id, voter_id=voter, votes=tuple(vote(*values)))

    def test_makes_votes_one_more_judge_of_the_set(self, stores):
        votes, feedback = stores
        vote_on_set(self.ask("a", 1, -1), votes, feedback)
        answer = vote_on_set(self.ask("b", 0, -1), votes, feedback)
        assert (answer.set_id, answer.voters) == ("s1", 2)
        assert [feedback.scored("s1").value(f"s1-{k}", "votes") for k in range(3)] == [0.5, -1.0, 0.0]
        assert feedback.scored("s1").scores == answer.scores

    def test_of_many_at_once_leaves_the_scores_of_all(self, stores, busy_threads):
        votes, feedback = stores
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: vote_on_set(self.ask(f"voter-{i}", 1), votes, feedback), range(24)))
        assert feedback.scored("s1").scores == votes.tally(SET).scores
        assert feedback.scored("s1").scores[0].diagnostics == {"voters": 24}

    def test_of_an_unknown_set_is_not_found(self, stores):
        with pytest.raises(NotFound):
            vote_on_set(self.ask("a", 1, set_id="s9"), *stores)
