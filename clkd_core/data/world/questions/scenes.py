"""Questions about a whole scene, in DriveLM's and CODA-LM's kinds.

Everything asked can be seen in the images; the plan of the ego vehicle, which the last kind is
about, follows from them, its speed and its route. Words are few and sentences short on purpose:
what a small model has to learn is the scene.
"""

from clkd_core.data.keyframes import QuestionAnswer
from clkd_core.data.world.questions.facts import Facts
from clkd_core.data.world.scene.actors import Actor
from clkd_core.types import MetaAction, PathAction, SpeedAction

NAMES = {"flagger": "road worker"}
"""What an actor is called where that is not its kind."""
STOPPING = ("red", "amber", "red_amber")
"""States of a light at which nobody may pass."""
_LIGHTS = {
    "green": "The light is green.",
    "amber": "The light is amber.",
    "red": "The light is red.",
    "red_amber": "The light is red and amber.",
}
_WEATHER = {"clear": "", "night": "Night, ", "fog": "Fog, ", "rain_glare": "Rain, "}
_SPEED = {
    SpeedAction.KEEP: "It keeps its speed",
    SpeedAction.ACCELERATE: "It speeds up",
    SpeedAction.DECELERATE: "It brakes",
    SpeedAction.STOP: "It stops",
}
_PATH = {
    PathAction.LEFT_TURN: " and turns left",
    PathAction.RIGHT_TURN: " and turns right",
    PathAction.LEFT_CHANGE: " and changes to the left",
    PathAction.RIGHT_CHANGE: " and changes to the right",
}


def scene_questions(facts: Facts, action: MetaAction) -> tuple[QuestionAnswer, ...]:
    """All questions about an instant, always the same ones in the same order.

    Args:
        facts: what is the case.
        action: what the ego vehicle does in the next 3 s.
    """
    return (
        _ask("perception", "What is the state of the traffic light?", _light(facts)),
        _ask("perception", "Is there a junction ahead?", _junction(facts)),
        _ask("perception", "Where is the nearest pedestrian?", _pedestrian(facts)),
        _ask("perception", "What is to the front left?", _something(facts.front_left)),
        _ask("perception", "What is to the front right?", _something(facts.front_right)),
        _ask("perception", "Who follows the ego vehicle?", _somebody(facts.follower)),
        _ask("prediction", "What does the vehicle ahead do?", _lead(facts)),
        _ask("prediction", "Who comes towards us?", _somebody(facts.oncoming)),
        _ask("prediction", "Who has to yield?", _yields(facts)),
        _ask("planning", "What blocks the way?", blocker(facts)),
        _ask("planning", "Is it safe to drive on?", "No." if _waits(facts) else "Yes."),
        _ask("planning", "What would be dangerous?", _danger(facts)),
        _ask("behavior", "What does the ego vehicle do next?", _behavior(action)),
        _ask("general", "What is there to see?", _sight(facts)),
        _ask("suggestion", "What is the advice?", _advice(facts)),
    )


def _ask(kind: str, question: str, answer: str) -> QuestionAnswer:
    return QuestionAnswer(kind=kind, question=question, answer=answer)


def name_of(actor: Actor) -> str:
    """What an actor is called."""
    return NAMES.get(actor.kind, actor.kind)


def with_article(name: str) -> str:
    """``car`` becomes ``a car``."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _something(actor: Actor | None) -> str:
    return "Nothing." if actor is None else f"{with_article(name_of(actor)).capitalize()}."


def _somebody(actor: Actor | None) -> str:
    return "Nobody." if actor is None else _something(actor)


def _light(facts: Facts) -> str:
    return "There is no traffic light." if facts.light is None else _LIGHTS[facts.light]


def _junction(facts: Facts) -> str:
    if facts.junction is None:
        return "There is no junction ahead."
    return f"The junction is {facts.junction}."


def _pedestrian(facts: Facts) -> str:
    if facts.pedestrian_on_road is None:
        return "Nowhere."
    return "On the road." if facts.pedestrian_on_road else "Beside the road."


def _lead(facts: Facts) -> str:
    if facts.lead() is None:
        return "There is no vehicle ahead."
    return "The vehicle brakes." if facts.lead_brakes else "The vehicle does not brake."


def blocker(facts: Facts) -> str:
    """What keeps the ego vehicle from driving on as it likes."""
    reasons = (
        (facts.person() is not None, "A pedestrian."),
        (facts.animal() is not None, "An animal."),
        (facts.flagger_stops, "A road worker."),
        (facts.works, "Barriers."),
        (facts.lead_brakes, "A braking vehicle."),
        (facts.light in STOPPING, "The traffic light."),
        (facts.crossing is not None, "Crossing traffic."),
    )
    return next((answer for holds, answer in reasons if holds), "Nothing.")


def _lets_pass(facts: Facts) -> bool:
    """Whether the rules or somebody on the way make the ego vehicle wait for others."""
    somebody = (facts.person(), facts.animal(), facts.crossing)
    return (
        any(who is not None for who in somebody)
        or facts.light in STOPPING
        or bool(facts.flagger_stops)
    )


def _waits(facts: Facts) -> bool:
    return _lets_pass(facts) or facts.lead_brakes


def _yields(facts: Facts) -> str:
    if _lets_pass(facts):
        return "The ego vehicle."
    if facts.light == "green" and facts.junction is not None:
        return "Cross traffic."
    return "Nobody."


def _danger(facts: Facts) -> str:
    if _waits(facts):
        return "To drive on."
    if facts.oncoming is not None:
        return "To swerve left."
    return "Nothing." if facts.follower is None else "To brake hard."


def _behavior(action: MetaAction) -> str:
    return f"{_SPEED[action.speed]}{_PATH.get(action.path, '')}."


def _sight(facts: Facts) -> str:
    """The weather where it is special, and the one thing that matters most."""
    answer = _WEATHER[facts.weather] + _subject(facts)
    return f"{answer[0].upper()}{answer[1:]}."


def _subject(facts: Facts) -> str:
    lead = facts.lead()
    options = (
        (facts.person() is not None, "a pedestrian on the way"),
        (facts.animal() is not None, "an animal on the way"),
        (facts.works, "roadworks"),
        (facts.lead_brakes, "a braking vehicle"),
        (facts.light is not None, f"a {(facts.light or '').replace('_', ' and ')} light"),
        (facts.crossing is not None, "crossing traffic"),
        (lead is not None, f"{with_article(lead.kind)} ahead" if lead else ""),
        (facts.junction is not None, "a junction"),
    )
    found = next((answer for holds, answer in options if holds), "a free road")
    return found.replace("a amber", "an amber")


def _advice(facts: Facts) -> str:
    options = (
        (facts.person() is not None, "Let the pedestrian cross."),
        (facts.animal() is not None, "Let the animal pass."),
        (facts.flagger_stops, "Wait for the road worker."),
        (facts.works, "Pass the barriers on the left."),
        (facts.lead_brakes, "Keep your distance."),
        (facts.light == "red_amber", "Get ready to start."),
        (facts.light in STOPPING, "Stop at the light."),
        (facts.crossing is not None, "Let the others pass."),
        (facts.weather != "clear", "Drive slowly."),
        (facts.lead() is not None, "Follow the vehicle ahead."),
    )
    return next((advice for holds, advice in options if holds), "Drive on.")
