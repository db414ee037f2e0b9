"""The page's style sheet: one column, readable on a phone, light and dark, printable."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f6f2;--card:#ffffff;--ink:#171a1d;--soft:#5a636d;
--line:#e2e2da;--accent:#0b7a6b;--second:#b4541a;--good:#147044;--bad:#b3261e;--warn:#8a5a00;
--goodbg:#e2f3e9;--badbg:#fbe7e3;--rail:#dcdcd4}
@media(prefers-color-scheme:dark){:root{--bg:#101316;--card:#181c20;--ink:#e9ebee;
--soft:#a0aab4;--line:#2b3138;--accent:#45cdb6;--second:#f0a06a;--good:#5fd394;--bad:#ff9b8c;
--warn:#e9bd64;--goodbg:#12301f;--badbg:#3a1a16;--rail:#343b43}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:40px}
.brand{color:var(--accent);font-weight:650;letter-spacing:.02em;margin:0}
h1{font-size:clamp(1.7rem,5vw,2.5rem);line-height:1.15;margin:.1em 0 .4em;letter-spacing:-.015em}
.lead{font-size:1.12rem;max-width:46em;margin:0 0 .6em}
.meta{color:var(--soft);font-size:.88rem;margin:0;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:0 0 .2em;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.2em 0 .4em}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:22px 24px;margin:20px 0}
section>p{max-width:52em;margin:.2em 0 1em;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;
margin:26px 0 0;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:14px 16px 13px;min-width:0}
.tiles .name{color:var(--soft);font-size:.86rem;display:block}
.tiles .value{font-size:1.75rem;font-weight:680;letter-spacing:-.02em;line-height:1.25;
display:block;overflow-wrap:anywhere}
.tiles .value.word{font-size:1.25rem;color:var(--soft);font-weight:560;line-height:1.75}
.tiles .beside{font-size:.84rem;color:var(--soft);display:block;line-height:1.4}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.95rem}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);
white-space:nowrap;vertical-align:middle}
th{font-weight:500;color:var(--soft);font-size:.86rem}
th[scope=row]{color:var(--ink);font-size:.95rem;font-weight:400}
th:first-child,td:first-child{text-align:left;padding-left:0}
tbody tr:last-child>*{border-bottom:0}
tr.main>*{font-weight:650}
td small{color:var(--soft);font-weight:400;display:block;font-size:.78rem;line-height:1.25}
.word,td.word{color:var(--soft);font-style:italic}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:8px 34px}
.two>div{min-width:0}
.share{display:flex;height:16px;border-radius:8px;overflow:hidden;margin:14px 0 8px;
background:var(--rail)}
.share i{display:block;min-width:2px}
.share .answered,.key .answered{background:var(--accent)}
.share .late,.key .late{background:var(--second)}
.share .dropped,.key .dropped{background:var(--bad)}
.key{list-style:none;margin:0 0 .6em;padding:0;display:flex;flex-wrap:wrap;gap:4px 20px;
font-size:.9rem}
.key b{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin-right:.45em}
.key .inference_ms{background:var(--accent)}.key .response_ms{background:var(--second)}
.key .plan{background:#00b59f}
.key .truth{background:var(--card);border:2px solid var(--soft)}
svg{display:block;max-width:100%}
.plot{width:100%;height:auto;overflow:visible}
.plot text{fill:var(--soft);font-size:12px;font-family:inherit}
.plot .grid{stroke:var(--line)}
.plot .deadline{stroke:var(--soft);stroke-dasharray:3 3}
.plot text.deadline{stroke:none}
.plot .majority{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:7 4}
.series{fill:none;stroke-width:2.2;stroke-linejoin:round}
.series.inference_ms,.mark.inference_ms line{stroke:var(--accent)}
.series.response_ms,.mark.response_ms line{stroke:var(--second)}
.mark line{stroke-width:2}
.mark.inference_ms circle{fill:var(--accent)}.mark.response_ms circle{fill:var(--second)}
.bars{fill-opacity:.28;stroke-width:1.4}
.bars.inference_ms{fill:var(--accent);stroke:var(--accent)}
.bars.response_ms{fill:var(--second);stroke:var(--second)}
.whisker{width:120px;height:14px;margin-left:auto}
.whisker .rail{stroke:var(--rail);stroke-width:2}
.whisker .range{stroke:var(--soft);stroke-width:4;stroke-linecap:round;stroke-opacity:.6}
.whisker circle{fill:var(--soft)}
.whisker.main .range{stroke:var(--accent)}.whisker.main circle{fill:var(--accent)}
.confusion td,.confusion th{padding:5px 8px;text-align:center;border:0;font-size:.84rem}
.confusion th[scope=row]{text-align:left;font-size:.82rem}
.confusion thead th{font-size:.64rem;font-weight:400;vertical-align:bottom;line-height:1.25;
white-space:normal;overflow-wrap:anywhere;padding:5px 2px}
.confusion{table-layout:fixed;min-width:380px}.confusion th:first-child{width:112px}
.confusion td{background:color-mix(in srgb,var(--tone) var(--share),var(--card));
border:2px solid var(--card);border-radius:6px}
.confusion td.zero{color:var(--soft);opacity:.55}
.filter{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 16px;border:0;padding:0}
.filter legend{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.filter label{border:1px solid var(--line);border-radius:99px;padding:4px 14px;cursor:pointer;
font-size:.9rem}
.filter input{position:absolute;opacity:0}
.filter label:has(:checked){background:var(--ink);color:var(--bg);border-color:var(--ink)}
.filter label:has(:focus-visible){outline:3px solid var(--accent);outline-offset:2px}
#frames:has([value=right]:checked) .frame:not(.right),
#frames:has([value=wrong]:checked) .frame:not(.wrong),
#frames:has([value=regular]:checked) .frame:not(.regular),
#frames:has([value=corner]:checked) .frame:not(.corner){display:none}
.frame{margin:0 0 26px;padding:0 0 26px;border-bottom:1px solid var(--line);display:grid;
grid-template-columns:minmax(0,2.1fr) minmax(0,1fr);gap:8px 22px}
.frame:last-of-type{border-bottom:0;margin-bottom:0;padding-bottom:0}
.frame img{display:block;width:100%;height:auto;border-radius:6px;background:var(--rail)}
.views{display:grid;grid-template-columns:repeat(5,1fr);gap:6px;margin-top:6px}
.views span{font-size:.68rem;color:var(--soft);display:block;text-align:center;line-height:1.5}
.frame h3{margin:0 0 .15em;font-size:1.15rem}
.verdict{display:inline-block;border-radius:99px;padding:1px 11px;font-size:.84rem;
font-weight:600;background:var(--rail)}
.right .verdict{background:var(--goodbg);color:var(--good)}
.wrong .verdict{background:var(--badbg);color:var(--bad)}
.frame dl{display:grid;grid-template-columns:auto 1fr;gap:1px 12px;margin:10px 0;font-size:.88rem}
.frame dt{color:var(--soft)}
.frame dd{margin:0;text-align:right;overflow-wrap:anywhere}
.bars20{margin:10px 0 0;padding:0;list-style:none;font-size:.77rem}
.bars20 li{display:grid;grid-template-columns:minmax(0,1fr) 56px 2.6em;gap:8px;align-items:center;
line-height:1.65;white-space:nowrap}
.bars20 span:last-child{text-align:right}
.bars20 i{display:block;height:8px;border-radius:4px;background:var(--accent);min-width:1px}
.bars20 .label{font-weight:680}
.birdseye{width:min(170px,60%);margin:6px auto 0}
.birdseye .ring{fill:none;stroke:var(--line)}
.birdseye polyline{fill:none;stroke-width:2.4;stroke-linejoin:round}
.birdseye polyline.plan{stroke:#00b59f}.birdseye circle.plan{fill:#00b59f}
.birdseye polyline.truth{stroke:var(--soft);stroke-dasharray:4 3}
.birdseye circle.truth{fill:var(--soft)}
.birdseye .ego{fill:var(--ink)}
details summary{cursor:pointer;color:var(--accent)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 18px;margin:0;
font-size:.9rem}
.facts dt{color:var(--soft)}
.facts.said{padding:0 0 12px;margin:0 0 12px;border-bottom:1px solid var(--line)}
.facts dd{margin:0;overflow-wrap:anywhere}
code{font:.88em ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace}
footer{color:var(--soft);font-size:.86rem;padding-bottom:48px}
@media(max-width:760px){section{padding:18px 16px}.frame{grid-template-columns:1fr}
main,header,footer{padding-left:14px;padding-right:14px}
.tiles{grid-template-columns:1fr 1fr}.tiles .value{font-size:1.45rem}
.facts:not(.counts){grid-template-columns:1fr}.facts:not(.counts) dd{margin-bottom:6px}
.facts.counts{grid-template-columns:minmax(0,1fr) max-content}
.plot text{font-size:20px}th[scope=row]{white-space:normal;min-width:7.5em}th,td{padding:7px 6px}}
@media print{body{background:#fff}section{break-inside:avoid;border:0;padding:0}
.frame{break-inside:avoid}.filter{display:none}}
"""
