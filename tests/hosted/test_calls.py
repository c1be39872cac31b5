"""What an endpoint's refusal means: whether to wait and ask again, or to stop the run."""

from __future__ import annotations

import pytest

from memroute_agents.calls import FailureKind, failure_from_status

AZURE = (
    "Requests to the ChatCompletions_Create Operation have exceeded call rate limit of your "
    "current pricing tier. Please retry after 6 seconds. Please go here: "
    "https://aka.ms/oai/quotaincrease if you would like to further increase the rate limit."
)
GOOGLE = "Quota exceeded for quota metric 'Generate requests' and limit 'requests per minute'"
OPENAI = (
    "Rate limit reached on requests per min (RPM): Limit 3 / min. Please try again in 20s. You can "
    "add a payment method at https://platform.openai.com/account/billing."
)
USED_UP = "You exceeded your current quota, please check your plan and billing details."
TRIAL_MINUTE = "You are using a Trial key, which is limited to 20 API calls / minute."
TRIAL_MONTH = "You are using a Trial key, which is limited to 1000 API calls / month."


@pytest.mark.parametrize(
    ("message", "headers", "kind"),
    [
        (AZURE, {"retry-after": "6"}, FailureKind.RATE_LIMIT),
        (AZURE, {}, FailureKind.RATE_LIMIT),
        (GOOGLE, {}, FailureKind.RATE_LIMIT),
        (OPENAI, {}, FailureKind.RATE_LIMIT),
        (TRIAL_MINUTE, {}, FailureKind.RATE_LIMIT),
        ("slow down, your quota is nearly used", {"retry-after": "120"}, FailureKind.RATE_LIMIT),
        (USED_UP, {"retry-after-ms": "500"}, FailureKind.RATE_LIMIT),
        (USED_UP, {}, FailureKind.QUOTA),
        ("no more insufficient_quota", {}, FailureKind.QUOTA),
        (TRIAL_MONTH, {}, FailureKind.QUOTA),
        ("Your monthly spend limit is reached", {}, FailureKind.QUOTA),
        (USED_UP, {"retry-after": "86400"}, FailureKind.QUOTA),
        ("too many requests", {"retry-after": "121"}, FailureKind.QUOTA),
    ],
)
def test_a_rate_limit_is_waited_for_and_a_used_up_quota_stops_the_run(
    message: str, headers: dict[str, str], kind: FailureKind
) -> None:
    failure = failure_from_status(429, message, headers, key_name="KEY", model="m")
    assert failure.kind is kind, str(failure)


def test_payment_required_stops_the_run_whatever_it_says() -> None:
    failure = failure_from_status(
        402, "per minute", {"retry-after": "1"}, key_name="KEY", model="m"
    )
    assert failure.kind is FailureKind.QUOTA
