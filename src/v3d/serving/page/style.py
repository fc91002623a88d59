"""How the page looks, beyond its theme."""

CSS = """
.gradio-container {max-width: 1500px !important; margin: 0 auto !important}
.v3d-title h1 {margin: 0; letter-spacing: .04em}
.v3d-title p {margin: 0; opacity: .75}
.v3d-bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden}
.v3d-bar > div {height: 100%; background: var(--color-accent); transition: width .5s}
.v3d-stages {display: flex; flex-wrap: wrap; gap: .4em; margin: .6em 0; font-size: .9em}
.v3d-stages span {padding: .1em .7em; border-radius: 1em; background: var(--border-color-primary)}
.v3d-stages .now {background: var(--color-accent); color: white; font-weight: 600}
.v3d-stages .past {opacity: .55}
.v3d-live {width: 192px; max-width: 50vw; border-radius: 8px; display: block; margin-top: .4em}
#v3d-files .label-clear-button {display: none}
.v3d-fail {color: var(--error-text-color, #b91c1c)}
.v3d-note {opacity: .8; font-size: .9em; margin: .2em 0}
.v3d-viewer {display: block; width: 100%; height: min(520px, 70vh); border: 0; border-radius: 8px}
.v3d-turn img.v3d-view {display: block; margin: 0 auto; width: min(100%, 420px); aspect-ratio: 1;
  object-fit: contain; background: white; border-radius: 8px}
.v3d-turn input[type=range] {width: 100%; margin: .8em 0; accent-color: var(--color-accent)}
.v3d-strip {display: flex; flex-wrap: wrap; gap: 4px}
.v3d-strip img {width: 64px; height: 64px; object-fit: contain; background: white; border-radius: 4px;
  cursor: pointer}
:focus-visible {outline: 2px solid var(--color-accent) !important; outline-offset: 2px}
@media (max-width: 760px) {
  .gradio-container .app {padding: 12px !important}
  .v3d-main {flex-direction: column !important; max-width: calc(100vw - 24px)}
  .v3d-main > * {min-width: 0 !important; width: 100% !important}
  .v3d-main * {max-width: 100%}
  #v3d-examples td, #v3d-examples th {padding: 4px !important}
}
"""
