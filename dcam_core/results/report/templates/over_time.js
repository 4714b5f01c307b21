// Shows the words at one denoising step, and plays the steps. Without it the page shows the finished answer.
for (const section of document.querySelectorAll(".dcam-report .over-time")) {
  const controls = section.querySelector(".controls");
  const [button, slider, now] = ["button", "input", "output"].map((name) => controls.querySelector(name));
  const steps = section.dataset.steps.split(" ").map(Number);
  const cards = [...section.querySelectorAll(".moving")].map((card) => ({
    stages: [...card.querySelectorAll(".stage")].map((stage) => stage.querySelectorAll(".frame")),
    dots: card.dataset.dots.trim().split(" ").map((dot) => dot.split(",")),
    values: card.dataset.values.split("|"),
    names: card.dataset.names.split("|"),
    dot: card.querySelector(".dot-now"),
    value: card.querySelector(".value"),
  }));
  const words = section.querySelectorAll(".writing .word[data-step]");
  let shown = steps.length - 1;
  const show = (number) => {
    for (const card of cards) {
      for (const frames of card.stages) {
        frames[shown].hidden = true;
        frames[number].hidden = false;
      }
      card.dot.setAttribute("cx", card.dots[number][0]);
      card.dot.setAttribute("cy", card.dots[number][1]);
      card.value.textContent = card.values[number];
      now.textContent = card.names[number];
    }
    words.forEach((word) => word.classList.toggle("blank", Number(word.dataset.step) >= steps[number]));
    slider.setAttribute("aria-valuetext", now.textContent);
    slider.value = shown = number;
  };
  let timer = 0;
  const rest = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };
  const play = () => {
    show(shown === steps.length - 1 ? 0 : shown + 1);
    timer = setInterval(() => (shown === steps.length - 1 ? rest() : show(shown + 1)), Math.min(600, Math.max(120, 9000 / steps.length)));
    button.textContent = "Pause";
  };
  button.addEventListener("click", () => (timer ? rest() : play()));
  slider.addEventListener("input", () => {
    rest();
    show(Number(slider.value));
  });
  controls.hidden = false;
}
