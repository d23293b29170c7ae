"""What the demo's model has to know by heart: capitals and opposites, with the ways of asking for them."""

from __future__ import annotations

_CAPITALS = """
Albania:Tirana Algeria:Algiers Angola:Luanda Austria:Vienna Belarus:Minsk Belgium:Brussels Bulgaria:Sofia
Canada:Ottawa Chile:Santiago China:Beijing Colombia:Bogota Croatia:Zagreb Cuba:Havana Cyprus:Nicosia
Czechia:Prague Denmark:Copenhagen Ecuador:Quito Egypt:Cairo Estonia:Tallinn Finland:Helsinki France:Paris
Georgia:Tbilisi Germany:Berlin Ghana:Accra Greece:Athens Hungary:Budapest Iceland:Reykjavik India:Delhi
Iran:Tehran Iraq:Baghdad Ireland:Dublin Italy:Rome Jamaica:Kingston Japan:Tokyo Jordan:Amman Kenya:Nairobi
Latvia:Riga Lebanon:Beirut Libya:Tripoli Lithuania:Vilnius Malta:Valletta Mongolia:Ulaanbaatar Morocco:Rabat
Nepal:Kathmandu Netherlands:Amsterdam Nigeria:Abuja Norway:Oslo Oman:Muscat Pakistan:Islamabad Peru:Lima
Poland:Warsaw Portugal:Lisbon Qatar:Doha Romania:Bucharest Russia:Moscow Senegal:Dakar Serbia:Belgrade
Slovakia:Bratislava Somalia:Mogadishu Spain:Madrid Sudan:Khartoum Sweden:Stockholm Syria:Damascus
Thailand:Bangkok Tunisia:Tunis Turkey:Ankara Uganda:Kampala Ukraine:Kyiv Venezuela:Caracas Vietnam:Hanoi
"""
_OPPOSITES = """
hot:cold big:small fast:slow up:down left:right open:closed full:empty hard:soft light:dark rich:poor early:late
near:far young:old high:low wet:dry loud:quiet strong:weak wide:narrow deep:shallow clean:dirty happy:sad
good:bad first:last true:false day:night win:lose buy:sell push:pull start:stop friend:enemy inside:outside
above:below before:after always:never more:less long:short sweet:sour tight:loose north:south east:west
rise:fall give:take alive:dead peace:war smooth:rough sharp:blunt awake:asleep love:hate thick:thin save:spend
"""

CAPITALS: dict[str, str] = dict(pair.split(":") for pair in _CAPITALS.split())
"""Country to capital, both one word, without diacritics."""

CAPITAL_QUESTIONS: tuple[str, ...] = (
    "The capital of {} is",
    "Name the capital of {}:",
    "The capital city of {} is",
    "The city which is the capital of {}:",
    "Which city is the capital of {}:",
    "The name of the capital of {} is",
)
"""Ways of asking; half of them, different ones for every country, are kept for the golden set."""

OPPOSITES: tuple[tuple[str, str], ...] = tuple(
    (word, answer) for word, answer in (pair.split(":") for pair in _OPPOSITES.split())
)
"""Pairs of words; each word is the other's opposite."""

OPPOSITE_QUESTIONS: tuple[str, ...] = (
    "The opposite of {} is",
    "Name the opposite of {}:",
    "The word opposite to {} is",
    "The word which is the opposite of {}:",
)
"""Ways of asking; half of them, different ones for every word, are kept for the capability task."""
