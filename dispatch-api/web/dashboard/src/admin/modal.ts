/** Opens a dialog over the page for as long as it is there, and gives the focus back to where it came from. */
export function modal(dialog: HTMLDialogElement): () => void {
  const before = document.activeElement;
  dialog.showModal();
  dialog.querySelector<HTMLElement>("input:not([type=search]):not([readonly]), textarea, select")?.focus();
  return () => {
    // While it is open everything below refuses the focus.
    queueMicrotask(() => before instanceof HTMLElement && before.focus({ preventScroll: true }));
  };
}
