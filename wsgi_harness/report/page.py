"""The HTML page of the report; it needs no other file and no network."""

from __future__ import annotations

from string import Template

PAGE = Template(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>hbshim regression: $headline</title>
<style>
  body { font: 16px/1.5 system-ui, "DejaVu Sans", Verdana, Arial, sans-serif; color: #1a1a1a;
         background: #fff; max-width: 64rem; margin: 2rem auto; padding: 0 1.25rem; }
  h1 { font-size: 1.7rem; margin-bottom: .2rem; }
  h2 { font-size: 1.3rem; margin-top: 2.6rem; border-bottom: 1px solid #ccc; }
  h3 { font-size: 1.05rem; margin: 0; }
  .scroll { overflow-x: auto; padding: 3px; }
  .scroll + h3 { margin-top: 1.6rem; }
  a { color: #0072B2; }
  table { border-collapse: separate; border-spacing: 3px; width: 100%; font-size: .8rem; }
  th { text-align: left; font-weight: 600; }
  td { padding: .35rem .1rem; text-align: center; border-radius: 4px; min-width: 3.5rem; }
  td a { color: inherit; text-decoration: none; display: block; }
  td a:hover { text-decoration: underline; }
  .headline { font-size: 1.1rem; padding: .7rem 1rem; border-left: 8px solid; margin: 1rem 0; }
  .ok { border-color: #009E73; background: #e9f6f2; }
  .bad { border-color: #000; background: #fdf3d5; }
  td.alive { background: #cdeee2; }
  td.closed { background: #fadfcd; }
  td.unknown { background: #eee; }
  td.none { color: #999; }
  td.unmet { outline: 3px solid #000; font-weight: 700; }
  .what { color: #444; }
  .cell { border: 1px solid #d5d5d5; border-radius: 6px; padding: .8rem 1rem; margin: 1rem 0; }
  .cell p { margin: .3rem 0; font-size: .92rem; }
  .verdict { float: right; font-weight: 600; padding: 0 .6rem; border-radius: 4px; }
  .verdict.alive { background: #cdeee2; } .verdict.closed { background: #fadfcd; }
  .verdict.unmet { background: #fff; outline: 3px solid #000; }
  svg { display: block; width: 100%; height: auto; }
  figure { margin: .6rem 0 0; overflow-x: auto; }
  figure svg { min-width: 38rem; }
  td small { display: block; font-weight: 400; }
  tr.group th { padding-top: .6rem; color: #444; font-weight: 400; font-style: italic; }
  figcaption { font-size: .9rem; color: #444; }
  .legend { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ccc; z-index: 1;
            list-style: none; margin: 0; padding: .4rem 0; font-size: .8rem; display: grid;
            grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
  .legend svg { display: inline-block; width: 1.8em; vertical-align: middle; }
  code, pre { font-size: .86rem; background: #f4f4f4; }
  pre { padding: .6rem; overflow-x: auto; }
  details { font-size: .88rem; }
  .facts { color: #444; font-size: .9rem; }
  @media (max-width: 40rem) {
    .legend { position: static; }
    .verdict { float: none; display: inline-block; }
  }
</style>
</head>
<body>
<h1>hbshim regression</h1>
<p class="facts">$facts</p>
<p class="headline $tone">$headline</p>
$findings
<h2>What was done</h2>
<p>AMQP peers send heartbeats: RabbitMQ closes a connection from which it has received nothing for
two to three heartbeat timeouts (T). Each cell is one Apache with one Python process. A first HTTP
request opened a connection to RabbitMQ. No request followed for $silence seconds ($factor T). A
second request then published $messages messages on the same connection. With oslo.messaging each
message was a CALL that a server answered and a notification of the answer, and the driver kept two
or three connections, none of which may be lost. The cells differ in what sends heartbeats in the
meantime. The expected result was written down before the run.</p>
<h2>Verdicts</h2>
<p class="what">Was the connection open after the silence? “Closed” means that RabbitMQ closed it
for missed heartbeats. A black frame marks an unexpected result. Follow a link to the details of a
connection.</p>
$grid
<h2>All connections</h2>
<figure role="img" aria-label="Lifetime of each connection, and lateness of its threads">
$overview
<figcaption>Left: the green bar is the connection as RabbitMQ saw it (thin ones: one of several),
the cross its end, a triangle a heartbeat from the cell, the squares the two requests (hollow:
failed). Heartbeats over TLS are not visible. Right: in each process a green thread (circle) and a
native thread (diamond) had to run a probe $probes times in T; shown is the maximum lateness during
the silence. If the circle is far right and the diamond far left, the process ran but its green
threads did not.</figcaption>
</figure>
<h2>Each connection</h2>
<ul class="legend">$legend</ul>
$cells
<p class="facts">The same as data: <a href="results.json">results.json</a>.</p>
</body>
</html>
"""
)

CELL = Template(
    """\
<section class="cell" id="$name">
<span class="verdict $classes">$verdict</span>
<h3>$title</h3>
<p class="what">$what</p>
<p><b>Expected: $expected.</b> $reason</p>
<p><b>Seen:</b> $seen</p>
$remarks
<figure role="img" aria-label="Timeline of $name">$timeline</figure>
$details
</section>
"""
)
