"""The ways through the code that docs/architecture.md draws, each step read from the source.

A way is a tree of functions. A function stands below the one that calls it; where the call goes
through a table (a handler, a callback, a message), the step says which function enters it there.
What a step does is the first sentence of its docstring. A step that is gone, or that nobody calls
any more, is an error.
"""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "ngxstream"


class Step(NamedTuple):
    """One function of a way.

    Args: depth: 0 for the outermost; place: `file.py:Class.function`; entered: `file.py:function`
    that puts it where its caller finds it, "" where the caller names it.
    """

    depth: int
    place: str
    entered: str = ""


def way(text: str) -> list[Step]:
    """Read a way. Args: text: a step a line, indented by two for each depth, `< PLACE` behind it
    where another function enters it.
    """
    steps = []
    for line in text.strip("\n").splitlines():
        place, _, entered = line.strip().partition(" < ")
        steps.append(Step((len(line) - len(line.lstrip())) // 2, place, entered))
    return steps


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def find(place: str) -> ast.AST:
    """Return a definition: a function, a class, or what a name of the module is bound to.

    Raises: LookupError
    """
    file, _, names = place.partition(":")
    found: ast.AST = _tree(file)
    for name in names.split("."):
        for node in ast.iter_child_nodes(found):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                found = node
                break
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                found = node
                break
        else:
            raise LookupError(f"{place} is not there")
    return found


def mentions(place: str, step: str) -> bool:
    """Tell whether a definition uses a step's name, or that of its class."""
    names = set(step.partition(":")[2].split("."))
    return any(
        (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        for node in ast.walk(find(place))
    )


def sentence(place: str) -> str:
    """Return the first sentence of a docstring; an __init__ may leave it to its class."""
    found = find(place)
    assert isinstance(found, ast.FunctionDef | ast.ClassDef)
    said = ast.get_docstring(found) or ""
    if place.endswith(".__init__") and (not said or said.startswith("Args:")):
        return sentence(place.removesuffix(".__init__"))
    first = said.split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].split(" Args:")[0].split(" Raises:")[0].rstrip(". ")


def draw(steps: list[Step]) -> str:
    """Draw a way. Raises: LookupError for a step that its caller does not know."""
    callers: list[Step] = []
    rows = []
    for step in steps:
        del callers[step.depth :]
        if callers:
            who = step.entered or callers[-1].place
            if not mentions(who, step.place):
                raise LookupError(f"{who} does not mention {step.place}")
        callers.append(step)
        file, _, name = step.place.partition(":")
        indent = "   " * (step.depth - 1) + "└─ " if step.depth else ""
        rows.append((f"{indent}{name}", file, sentence(step.place)))
    width = max(len(row[0]) for row in rows)
    files = max(len(row[1]) for row in rows)
    return "\n".join(f"{name:{width}}  {file:{files}}  {said}" for name, file, said in rows)



WAYS = {
    "A datagram of a client who has a session": """
event/loop.py:Loop.turn
  event/udp.py:UdpListener.on_readable < event/udp.py:UdpListener.choose
    event/udp.py:UdpListener._hand_out
      modules/proxy/udp_steps.py:Quota.take < modules/proxy/udp_steps.py:chosen
        modules/proxy/udp_to_server.py:ToServer.take
          modules/proxy/udp_to_server.py:ToServer.send
          modules/proxy/udp_to_server.py:ToServer.send_many
            event/datagram.py:runs
  modules/proxy/udp_to_client.py:ToClient.on_event < modules/proxy/udp.py:UdpProxy.begin
    modules/proxy/udp_to_client.py:ToClient.drain
      modules/proxy/udp_to_client.py:ToClient.answer
      modules/proxy/udp_to_client.py:ToClient.answer_many
    modules/proxy/udp_exchange.py:Exchange.settle
      stream/session.py:Session.finalize
        modules/proxy/udp_exchange.py:Exchange.close
""",
    "The first datagram of a client": """
event/udp.py:UdpListener.on_readable
  event/udp_new.py:NewClients.begin_fresh
    event/udp_new.py:NewClients.meet
      event/udp_new.py:NewClients.put
    event/udp_new.py:NewClients.admit
      stream/addresses.py:ListeningConf.begin < process/service.py:Service.__init__
        stream/session.py:Session.__init__
        stream/phases.py:run < stream/session.py:begin
          modules/access.py:handle < modules/access.py:MODULE
          modules/proxy/module.py:handle < modules/proxy/module.py:MODULE
            modules/proxy/handler.py:Proxy.start
              modules/proxy/handler.py:Proxy.connect
                stream/round_robin.py:RoundRobinSelection.get
                  stream/round_robin.py:usable
                modules/proxy/udp.py:UdpProxy.open
                modules/proxy/udp.py:UdpProxy.begin
                  modules/proxy/udp_to_server.py:ToServer.send
                  modules/proxy/udp.py:UdpProxy.enlist
                    event/udp.py:UdpListener.enlist
""",
    "A reload": """
process/master.py:Master.run
  process/master.py:Master._wait
    process/master.py:Master._obey
      process/master.py:Master.reload
        process/master.py:Master._reload
          process/cycle.py:rebuild
            process/cycle.py:Cycle.__init__
              process/cycle.py:Reading.__init__
              event/listening.py:open_all
          process/reload.py:Reload.run
            process/cycle.py:Cycle.prepare
            process/children.py:Children.start
              process/children.py:Children.spawn
            process/reload.py:Beginning.wait
            process/reload.py:Reload._undo
            process/takeover.py:TakeOver.hand_over
            process/children.py:Children.quit
            process/master.py:Master.retire
""",
    "A UDP session during it": """
process/worker.py:Worker.on_channel
  process/worker.py:Worker.hand_over
    process/departure.py:Departure.__init__ < process/worker.py:Worker._depart
      process/departure.py:Departure._feed
        process/departure.py:Departure._pack
          modules/proxy/udp_state.py:pack < modules/proxy/udp.py:UdpProxy
          stream/travel.py:pack
        process/departure.py:Departure._begin_anew
process/arrival.py:Arrival.on_mail < process/arrival.py:Arrival.__init__
  process/arrival.py:Arrival._take_message
    process/arrival.py:Arrival._may_say
    process/arrival.py:Arrival._obey
      process/adoption.py:Adopter.take_sessions
        process/adoption.py:Adopter._take_session
          stream/travel.py:PackedSession.__init__
          modules/proxy/udp_state.py:read < modules/proxy/module.py:MODULE
          process/adoption.py:Adopter._check_client
          stream/travel.py:PackedSession.unpack
    process/arrival.py:Arrival._check < process/arrival.py:Arrival._obey
      process/arrival.py:Arrival._open
""",
    "A word of the configuration": """
process/cycle.py:Reading.__init__
  conf/reader.py:read
    conf/reader.py:_Reading.file
      conf/reader.py:_Parse.run
        conf/spelling.py:spell
          conf/spelling.py:_Spelling.statement
            conf/tokens.py:Tokens.read
        conf/reader.py:_lex
        conf/reader.py:_Parse._run
          conf/reader.py:Statement.__init__
  conf/builder.py:Builder.build
    conf/builder.py:Builder.walk
      conf/builder.py:Builder._apply
        conf/builder.py:Builder._apply_unplaced
          stream/core.py:_stream_block < stream/core.py:DIRECTIVES
            conf/builder.py:Builder.walk_block
            stream/core.py:StreamDraft.finish
              conf/module.py:Module.make_conf
              stream/core.py:StreamConf.__init__
          conf/directive.py:flag < modules/proxy/conf.py:directives
""",
}
