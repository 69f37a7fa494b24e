"""Everything that is measured, in the order of the tables."""

from benchmarks.peers.measures import Measure
from benchmarks.peers.measures.admission import LONG_PROMPT, OF_PICTURES
from benchmarks.peers.measures.cancels import GIVEN_UP
from benchmarks.peers.measures.conversation import CONVERSATION
from benchmarks.peers.measures.frames import FULL_SPEED, STILL
from benchmarks.peers.measures.installed import AS_INSTALLED
from benchmarks.peers.measures.lag import LOOP_LAG
from benchmarks.peers.measures.pictures import SECOND_QUESTION
from benchmarks.peers.measures.speed import measure as speed
from benchmarks.peers.models import SMOLLM2, TINY_GEMMA3
from benchmarks.peers.plan import Plan


def measures(plan: Plan) -> list[Measure]:
    return [
        *(speed(SMOLLM2, clients) for clients in plan.crowds),
        LONG_PROMPT,
        CONVERSATION,
        GIVEN_UP,
        OF_PICTURES,
        SECOND_QUESTION,
        FULL_SPEED,
        STILL,
        *(speed(TINY_GEMMA3, clients, pictures=1) for clients in plan.picture_crowds),
        LOOP_LAG,
        AS_INSTALLED,
    ]
