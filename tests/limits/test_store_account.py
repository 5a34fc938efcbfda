"""One process's side of a lease."""

from __future__ import annotations

import pytest

from bulkllm.limits.stores import Account, Claim, Lease, Meter

RPM = Meter("rpm", "bucket", 60, whole=True, pool="gpt")
TPD = Meter("tpd", "bucket", 1e6, 86_400.0, pool="gpt")
SLOTS = Meter("in flight", "slots", 10, pool="gpt")
NOW = 100.0


@pytest.fixture
def account() -> Account:
    return Account((RPM, TPD, SLOTS), owner="me", ttl=5.0)


def grant(account: Account, now: float, **amounts: float) -> Claim:
    claim = account.claim(now)
    account.take_in(Lease({f"gpt/{key.replace('_', ' ')}": amount for key, amount in amounts.items()}))
    return claim


def told(claim: Claim) -> list[list[tuple[object, ...]]]:
    return [[tuple(spending) for spending in report.spendings] for report in claim.reports]


def test_what_is_granted_is_held_until_the_lease_runs_out(account: Account) -> None:
    grant(account, NOW, rpm=10)
    assert account.held("gpt/rpm", NOW + 4.99) == 10
    assert account.held("gpt/rpm", NOW + 5) == 0
    assert account.claim(NOW + 6).keep == {}


def test_the_lease_counts_from_before_the_call(account: Account) -> None:
    account.claim(NOW)
    account.take_in(Lease({"gpt/rpm": 10}))  # whenever that is
    assert account.expires_at == NOW + 5


def test_each_answered_claim_renews_and_an_unanswered_one_does_not(account: Account) -> None:
    grant(account, NOW, rpm=10)
    account.claim(NOW + 3)
    assert account.expires_at == NOW + 5
    claim = grant(account, NOW + 4, rpm=1)
    assert claim.keep == {"gpt/rpm": 10}
    assert account.expires_at == NOW + 9
    assert account.held("gpt/rpm", NOW + 8) == 11


def test_what_is_spent_is_told_with_its_age_until_somebody_answers(account: Account) -> None:
    grant(account, NOW, rpm=10, tpd=5000)
    account.spend({"gpt/rpm": 1, "gpt/tpd": 700}, NOW + 1)
    first = account.claim(NOW + 1.5)
    assert first.keep == {"gpt/rpm": 9, "gpt/tpd": 4300}
    assert told(first) == [[("gpt/rpm", 1, 0.5), ("gpt/tpd", 700, 0.5)]]
    account.spend({"gpt/rpm": 2}, NOW + 2)
    second = account.claim(NOW + 3)
    assert told(second) == [[("gpt/rpm", 1, 2.0), ("gpt/tpd", 700, 2.0)], [("gpt/rpm", 2, 1.0)]]
    assert [report.serial for report in second.reports] == [1, 2]
    account.spend({"gpt/rpm": 3}, NOW + 3.1)  # while the call is under way
    account.take_in(Lease({}))
    assert account.held("gpt/rpm", NOW + 3.2) == 4
    third = account.claim(NOW + 3.5)
    assert [report.serial for report in third.reports] == [3]
    assert told(third) == [[("gpt/rpm", 3, pytest.approx(0.4))]]


def test_spending_at_about_one_moment_is_told_as_one_by_the_latest(account: Account) -> None:
    grant(account, NOW, rpm=50)
    for number in range(10):
        account.spend({"gpt/rpm": 1}, NOW + number / 1000)
    assert told(account.claim(NOW + 1)) == [[("gpt/rpm", 10, pytest.approx(0.991))]]


def test_an_amendment_is_told_of_the_moment_that_it_amends(account: Account) -> None:
    grant(account, NOW, tpd=5000)
    account.spend({"gpt/tpd": 900}, NOW)
    grant(account, NOW + 1)
    account.amend("gpt/tpd", -400, NOW)
    account.amend("gpt/tpd", 0, NOW)
    assert told(account.claim(NOW + 100)) == [[("gpt/tpd", -400, 100.0)]]


def test_what_is_given_up_is_not_held_from_the_claim_on(account: Account) -> None:
    grant(account, NOW, rpm=10, tpd=5000)
    claim = account.claim(NOW + 1, keep={"gpt/rpm": 4}, want={"gpt/tpd": 1}, least={"gpt/tpd": 1})
    assert claim.keep == {"gpt/rpm": 4, "gpt/tpd": 0}
    assert (claim.want, claim.least) == ({"gpt/tpd": 1}, {"gpt/tpd": 1})
    assert account.held("gpt/rpm", NOW + 1) == 4
    assert account.held("gpt/tpd", NOW + 1) == 0


def test_slots_in_use_are_held_whatever_becomes_of_the_lease(account: Account) -> None:
    grant(account, NOW, in_flight=5)
    account.spend({"gpt/in flight": 3}, NOW)
    assert account.held("gpt/in flight", NOW) == 2
    assert account.claim(NOW + 1, keep={}).keep["gpt/in flight"] == 3
    assert account.claim(NOW + 50).keep["gpt/in flight"] == 3, "their calls go on"
    account.finish("gpt/in flight", 1, NOW + 51)
    assert account.held("gpt/in flight", NOW + 51) == 0
    assert account.claim(NOW + 52).keep["gpt/in flight"] == 2


def test_a_slot_that_comes_free_can_be_used_again(account: Account) -> None:
    grant(account, NOW, in_flight=1)
    for _ in range(3):
        account.spend({"gpt/in flight": 1}, NOW + 1)
        assert account.held("gpt/in flight", NOW + 1) == 0
        account.finish("gpt/in flight", 1, NOW + 1)
        assert account.held("gpt/in flight", NOW + 1) == 1
    assert told(account.claim(NOW + 2)) == [], "slots are not spent"


def test_what_is_spent_without_a_lease_is_told_too(account: Account) -> None:
    account.spend({"gpt/rpm": 3}, NOW)
    assert told(account.claim(NOW + 20)) == [[("gpt/rpm", 3, 20.0)]]


def test_what_is_too_old_to_matter_is_not_told(account: Account) -> None:
    account.spend({"gpt/rpm": 3, "gpt/tpd": 900}, NOW)
    account.claim(NOW + 1)
    assert told(account.claim(NOW + 100)) == [[("gpt/tpd", 900, 100.0)]]


def test_reports_do_not_pile_up_while_a_store_is_away(account: Account) -> None:
    for second in range(999):
        account.spend({"gpt/tpd": 10}, NOW + second)
        account.claim(NOW + second + 0.5)
    account.spend({"gpt/tpd": 10}, NOW + 999)
    claim = account.claim(NOW + 999.5)
    assert len(claim.reports) <= 16
    assert sum(len(report.spendings) for report in claim.reports) <= 40
    assert sum(amount for report in claim.reports for _, amount, _ in report.spendings) == 10_000
    serials = [report.serial for report in claim.reports]
    assert serials == sorted(serials)
    assert serials[-1] == 1000


def test_whoever_leaves_keeps_nothing_and_tells_what_it_spent(account: Account) -> None:
    grant(account, NOW, rpm=10, in_flight=2)
    account.spend({"gpt/rpm": 1, "gpt/in flight": 1}, NOW)
    claim = account.claim(NOW + 1, leaving=True)
    assert claim.leaving
    assert claim.keep == {}
    assert told(claim) == [[("gpt/rpm", 1, 1.0)]]
    assert account.held("gpt/rpm", NOW + 1) == 0


def test_an_answer_to_nothing_changes_nothing(account: Account) -> None:
    account.take_in(Lease({"gpt/rpm": 10}))
    assert account.held("gpt/rpm", NOW) == 0


def test_owners_that_are_not_named_differ() -> None:
    assert Account((RPM,)).owner != Account((RPM,)).owner
