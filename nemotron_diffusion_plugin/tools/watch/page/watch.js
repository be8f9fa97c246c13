"use strict";

const BLOCK = 32;
const COLUMNS = [
  { mode: "ar", drafted: "picked", masks: 0 },
  { mode: "diffusion", drafted: "committed", masks: BLOCK - 1 },
  { mode: "self_speculation", drafted: "accepted", masks: BLOCK - 1 },
];

const element = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

class Column {
  constructor({ mode, drafted, masks }) {
    Object.assign(this, { mode, drafted, masks });
    this.root = element("section", "");
    this.root.id = mode;
    this.text = element("div", "text");
    this.numbers = element("p", "numbers");
    this.root.append(element("h2", "", mode), this.text, this.numbers);
  }

  start(question, maxTokens, slowdown) {
    this.source?.close();
    this.timers?.forEach(clearTimeout);
    Object.assign(this, { timers: [], steps: 0, count: 0, maxTokens, slowdown, begun: performance.now() });
    this.text.replaceChildren();
    this.mask();
    this.numbers.className = "numbers";
    this.numbers.textContent = "waiting for the first token";
    this.root.dataset.state = "running";
    const query = new URLSearchParams({ mode: this.mode, question, max_tokens: maxTokens });
    const source = new EventSource(`ask?${query}`);
    this.source = source;
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.kind !== "tokens") source.close();
      const wait = (event.seconds ?? 0) * 1000 * slowdown - (performance.now() - this.begun);
      this.timers.push(setTimeout(() => this.show(event), Math.max(0, wait)));
    };
    source.onerror = () => {
      source.close();
      this.show({ kind: "error", message: "the question was refused, or the page's server has ended" });
    };
  }

  show(event) {
    if (event.kind === "tokens") this.arrive(event);
    else if (event.kind === "end") this.end(event);
    else this.fail(event.message);
  }

  // The tokens of one engine step: drafts, and behind them the pick of the causal forward.
  arrive({ tokens, seconds }) {
    this.unmask();
    tokens.forEach((token, index) => {
      const last = index === tokens.length - 1;
      const span = element("span", `token ${last ? "picked" : this.drafted}`, token);
      if (index === 0 && this.masks) span.classList.add("step");
      this.text.append(span);
    });
    this.steps += 1;
    this.count += tokens.length;
    this.mask();
    const rate = (this.count / seconds).toFixed(0);
    const perStep = (this.count / this.steps).toFixed(1);
    this.numbers.textContent = `${this.count} tokens, ${rate} per second, ${perStep} per engine step`;
  }

  end({ tokens, seconds, forwards, tokens_per_forward: perForward, acceptance_length: acceptance }) {
    this.unmask();
    this.endInsideBlock();
    const parts = [`${tokens} tokens in ${seconds.toFixed(2)} s, ${(tokens / seconds).toFixed(0)} per second`];
    if (forwards) parts.push(`${forwards} forwards`, `${perForward.toFixed(2)} tokens per forward`);
    if (acceptance) parts.push(`acceptance length ${acceptance.toFixed(2)}`);
    this.numbers.textContent = parts.join(", ");
    this.finish("done");
  }

  // An answer ends inside its last block: its last token is a draft, unless the step brought nothing else.
  endInsideBlock() {
    const last = this.text.lastElementChild;
    if (this.masks && last && !last.classList.contains("step")) last.className = `token ${this.drafted}`;
  }

  fail(message) {
    this.unmask();
    this.numbers.className = "numbers error";
    this.numbers.textContent = message;
    this.finish("failed");
  }

  finish(state) {
    this.root.dataset.state = state;
    const states = [...document.querySelectorAll("main section")].map((column) => column.dataset.state);
    if (!states.includes("running")) document.body.dataset.state = states.includes("failed") ? "failed" : "done";
  }

  mask() {
    const room = Math.min(this.masks, this.maxTokens - this.count);
    for (let index = 0; index < room; index += 1) this.text.append(element("span", "mask", "▒"));
  }

  unmask() {
    this.text.querySelectorAll(".mask").forEach((mask) => mask.remove());
  }
}

const columns = COLUMNS.map((settings) => new Column(settings));
document.getElementById("columns").append(...columns.map((column) => column.root));

const form = document.getElementById("form");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { question, max_tokens: maxTokens, slowdown } = Object.fromEntries(new FormData(form));
  document.body.dataset.state = "running";
  columns.forEach((column) => column.start(question, Number(maxTokens), Number(slowdown)));
});

// ?question=…&max_tokens=…&slowdown=… fills in the form and asks at once.
const wanted = new URLSearchParams(location.search);
for (const [name, value] of wanted) {
  if (form.elements[name]) form.elements[name].value = value;
}
if (wanted.has("question")) form.requestSubmit();
