// What ipywidgets leaves undone on a page that has no kernel; loaded before its html-manager, only by pages that hold widgets.

// The Play widget changes the <i> of its icons: the theme's FontAwesome must put its <svg> into them, not in their place.
window.FontAwesomeConfig = { autoReplaceSvg: "nest" };

const PLAY_BUTTONS = {
  en: ["Play or pause", "Back to the start", "Repeat"],
  it: ["Avvia o ferma", "Torna all’inizio", "Ripeti"],
};

// Sliders and the buttons of Play have no name for screen readers, and a slider's value is the number of the option, not the option.
function nameControls() {
  for (const widget of document.querySelectorAll(".widget-slider")) {
    const label = widget.querySelector(".widget-label"), readout = widget.querySelector(".widget-readout");
    for (const handle of widget.querySelectorAll("[role=slider]")) {
      handle.setAttribute("aria-label", label.textContent);
      handle.setAttribute("aria-valuetext", readout.textContent);
    }
    readout.contentEditable = "false"; // it looks like text, and is one more stop for the keyboard
    if (label.title === "null") label.removeAttribute("title");
  }
  for (const play of document.querySelectorAll(".widget-play")) {
    const names = PLAY_BUTTONS[play.closest("[lang]").lang] ?? PLAY_BUTTONS.en;
    play.querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-label", names[i]));
  }
}
addEventListener("load", () => {
  new MutationObserver(nameControls).observe(document.body, { childList: true, subtree: true });
  if (window.MathJax) MathJax.Hub = { Queue() {} }; // labels would have the MathJax of ten years ago look for formulas in them
});
